"""What S3 and boto3 say, in the user's words: what was asked for, what came, what to do."""

from datetime import UTC, datetime

from botocore.exceptions import (
    ClientError,
    ConfigParseError,
    ConnectionError,
    EndpointProviderError,
    HTTPClientError,
    InvalidConfigError,
    InvalidRegionError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
)

from finetune_agent.stores.object_store import StoreRefused, StoreUnavailable

_MISSING = {"NoSuchKey", "404", "NotFound"}
_NO_BUCKET = {"NoSuchBucket", "InvalidBucketName", "PermanentRedirect", "AuthorizationHeaderMalformed"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
_WRONG_KEYS = {"SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidToken", "InvalidClientTokenId", "UnrecognizedClientException"}
_ASK_AGAIN = {409, 429}  # 409: two members write beside each other, to one key or (stores on a file system) to one folder
_DENIED = {"AccessDenied", "AllAccessDisabled", "403", "Forbidden", "Unauthorized", "401"}


def is_missing(error: ClientError) -> bool:
    return str(error.response["Error"].get("Code")) in _MISSING


def translate(error: Exception, uri: str, where: str) -> StoreRefused | StoreUnavailable:
    """`uri` is what was asked for, `where` the endpoint."""
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        wanted = "a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a ServiceAccount with workload identity"
        return StoreRefused(f"no credentials for {uri}; wanted {wanted}", about_credentials=True)
    if isinstance(error, ProfileNotFound | ConfigParseError | InvalidConfigError):
        return StoreRefused(f"the configuration of AWS cannot be used for {uri} ({type(error).__name__})", about_credentials=True)
    if isinstance(error, InvalidRegionError | NoRegionError):
        return StoreRefused(f"{error}; wanted a region such as us-east-1", field="spec.storage.region")
    if isinstance(error, ParamValidationError | EndpointProviderError | ValueError):
        why = " ".join(str(error).split())[:200]
        return StoreRefused(f"{uri} cannot be asked for at {where}: {why}; check the names of bucket and key")
    if not isinstance(error, ClientError):
        kind = "does not answer" if isinstance(error, ConnectionError | HTTPClientError) else "failed"
        return StoreUnavailable(f"{where} {kind} ({type(error).__name__}) for {uri}")
    code = str(error.response["Error"].get("Code"))
    status = int(error.response["ResponseMetadata"].get("HTTPStatusCode") or 0)
    return _translate_code(code, status, uri, where)


def _translate_code(code: str, status: int, uri: str, where: str) -> StoreRefused | StoreUnavailable:
    bucket = uri.removeprefix("s3://").partition("/")[0]
    if code == "RequestTimeTooSkewed":
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return StoreUnavailable(f"the clock of this node ({now}) differs too much from that of {where} ({code}); set it right, for {uri}")
    if code in _NO_BUCKET:
        return StoreRefused(f'there is no bucket "{bucket}" at {where} ({code}); check its name and region, or make it')
    if code in _EXPIRED:
        return StoreRefused(f"the credentials for {uri} have expired ({code}); put new ones into the Secret", about_credentials=True)
    if code in _WRONG_KEYS:
        what = "AWS_SECRET_ACCESS_KEY" if code == "SignatureDoesNotMatch" else "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        message = f"{where} refused the credentials for {uri} ({code}); check {what} in the Secret"
        return StoreRefused(message, about_credentials=True)
    if code in _DENIED or status in {401, 403}:
        return StoreRefused(f"{uri}: access denied ({code}); wanted credentials that may list, read and write it")
    if status >= 500 or status in _ASK_AGAIN or code in {"SlowDown", "RequestTimeout", "Throttling"}:
        return StoreUnavailable(f"{where} answered {code or status} for {uri}")
    return StoreRefused(f"{uri}: {where} answered {code} ({status})")
