"""PID 1 of a member: hears the coordinator, leads the other processes, tells what they say. No torch, no boto3."""
