"""Objects in S3 or in a folder: the only place with boto3."""
