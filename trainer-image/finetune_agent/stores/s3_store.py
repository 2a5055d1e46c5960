"""Objects in S3 or anything that speaks it. Short timeouts, own retries with a deadline, credentials re-read when they rotate.

No helper of boto3 that retries or threads by itself is used: an upload must end before a grace period does.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from finetune_agent.stores.credentials import CredentialFiles
from finetune_agent.stores.object_store import CHUNK_BYTES, ObjectInfo, ObjectMissing, PutResult, StoreUnavailable
from finetune_agent.stores.reachable import check_reachable
from finetune_agent.stores.s3_words import is_missing, translate
from finetune_contract.backoff import Backoff
from finetune_contract.config import StorageConfig
from finetune_contract.times import S3_CONNECT_SECONDS, S3_FIRST_BACKOFF_SECONDS, S3_LONGEST_BACKOFF_SECONDS, S3_READ_SECONDS

_BACKOFF = Backoff(first_seconds=S3_FIRST_BACKOFF_SECONDS, longest_seconds=S3_LONGEST_BACKOFF_SECONDS)
_PART_BYTES = 16 << 20
_PARALLEL_PARTS = 4
_MOST_BREAKS = 100
_LOST_RACE = {"PreconditionFailed", "412"}
_Answer = TypeVar("_Answer")


class S3Store:
    """One bucket and prefix. A call gives up with StoreUnavailable after `patience_seconds` of trying."""

    def __init__(
        self,
        *,
        bucket: str,
        prefix: str,
        storage: StorageConfig,
        credentials: CredentialFiles,
        random: Random,
        patience_seconds: float = 5,
        allowed_endpoints: Collection[str] = (),
    ) -> None:
        self._bucket, self._prefix, self._storage, self._credentials = bucket, prefix.strip("/"), storage, credentials
        self._random, self._patience_seconds, self._allowed_endpoints = random, patience_seconds, allowed_endpoints
        self._client_and_keys: tuple[Any, dict[str, str]] | None = None

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> PutResult:
        if len(data) > _PART_BYTES and not if_absent:
            self._put_parts(key, data)
            return PutResult.STORED
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        try:
            self._call(key, lambda client: client.put_object(Bucket=self._bucket, Key=self._key(key), Body=data, **condition))
        except _PreconditionFailed:
            return PutResult.ALREADY_THERE
        return PutResult.STORED

    def get(self, key: str) -> bytes:
        return b"".join(self.read(key))

    def describe(self, key: str) -> ObjectInfo:
        answer = self._call(key, lambda client: client.get_object(Bucket=self._bucket, Key=self._key(key)))
        answer["Body"].close()
        return ObjectInfo(key=key, num_bytes=answer["ContentLength"], version=answer["ETag"])

    def read(self, key: str) -> Iterator[bytes]:
        """Goes on from the byte where a connection broke; the same version or none."""
        done, version = 0, None
        for _ in range(_MOST_BREAKS):
            answer = self._call(key, self._get_from(key, done, version))
            version = answer["ETag"]
            total = done + answer["ContentLength"]
            with contextlib.suppress(BotoCoreError, OSError), contextlib.closing(answer["Body"]) as body:
                for chunk in body.iter_chunks(CHUNK_BYTES):
                    done += len(chunk)
                    yield chunk
            if done >= total:
                return
        raise StoreUnavailable(f"{self._where()} broke the connection {_MOST_BREAKS} times while {self._uri(key)} was read")

    def list(self, prefix: str) -> tuple[ObjectInfo, ...]:
        found: list[ObjectInfo] = []
        page = {"Bucket": self._bucket, "Prefix": self._key(prefix)}
        while True:
            answer = self._call(prefix, _list_page(page))
            for entry in answer.get("Contents", ()):
                key = entry["Key"][len(self._prefix) + 1 :] if self._prefix else entry["Key"]
                found.append(ObjectInfo(key=key, num_bytes=entry["Size"], version=entry["ETag"]))
            if not answer.get("IsTruncated"):
                return tuple(found)
            page = {**page, "ContinuationToken": answer["NextContinuationToken"]}

    def delete(self, key: str) -> None:
        with contextlib.suppress(ObjectMissing):
            self._call(key, lambda client: client.delete_object(Bucket=self._bucket, Key=self._key(key)))

    def _get_from(self, key: str, start: int, version: str | None) -> Callable[[Any], Any]:
        where = {"Bucket": self._bucket, "Key": self._key(key)}
        if version is not None:
            where |= {"Range": f"bytes={start}-", "IfMatch": version}

        def ask(client: Any) -> Any:
            try:
                return client.get_object(**where)
            except ClientError as error:
                if str(error.response["Error"].get("Code")) in _LOST_RACE:
                    raise StoreUnavailable(f"{self._uri(key)} changed while it was read") from error
                raise

        return ask

    def _put_parts(self, key: str, data: bytes) -> None:
        where = {"Bucket": self._bucket, "Key": self._key(key)}
        upload = {**where, "UploadId": self._call(key, lambda client: client.create_multipart_upload(**where))["UploadId"]}
        view = memoryview(data)
        parts = [view[start : start + _PART_BYTES] for start in range(0, len(view), _PART_BYTES)]

        def put_part(number: int) -> dict[str, object]:
            answer = self._call(key, lambda client: client.upload_part(**upload, PartNumber=number, Body=bytes(parts[number - 1])))
            return {"PartNumber": number, "ETag": answer["ETag"]}

        try:
            with ThreadPoolExecutor(_PARALLEL_PARTS) as pool:
                done = list(pool.map(put_part, range(1, len(parts) + 1)))
            self._call(key, lambda client: client.complete_multipart_upload(**upload, MultipartUpload={"Parts": done}))
        except BaseException:
            with contextlib.suppress(Exception):
                self._client().abort_multipart_upload(**upload)
            raise

    def _call(self, key: str, ask: Callable[[Any], _Answer]) -> _Answer:
        deadline, num_failures = time.monotonic() + self._patience_seconds, 0
        while True:
            try:
                return ask(self._client())
            except ClientError as error:
                code = str(error.response["Error"].get("Code"))
                if code in _LOST_RACE:
                    raise _PreconditionFailed(self._uri(key)) from error
                if is_missing(error):
                    raise ObjectMissing(self._uri(key)) from error
                failure: Exception = translate(error, self._uri(key), self._where())
            except (BotoCoreError, OSError, ValueError) as error:  # ValueError: what boto3 says of a region or a host that cannot be
                failure = translate(error, self._uri(key), self._where())
            num_failures += 1
            if not isinstance(failure, StoreUnavailable) or time.monotonic() + _BACKOFF.after(num_failures) > deadline:
                raise failure
            time.sleep(_BACKOFF.spread_after(num_failures, self._random))

    def _client(self) -> Any:
        keys = self._credentials.read_aws()
        if self._client_and_keys is None or self._client_and_keys[1] != keys:
            if self._storage.endpoint is not None:
                check_reachable(self._storage.endpoint, field="spec.storage.endpoint", allowed=self._allowed_endpoints)
            self._client_and_keys = (_connect(self._storage, keys), keys)
        return self._client_and_keys[0]

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    def _uri(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._key(key)}".rstrip("/")

    def _where(self) -> str:
        return self._storage.endpoint or "AWS"


class _PreconditionFailed(Exception):
    """A conditional put lost because the object exists, or a conditional get because it changed."""


def _list_page(page: dict[str, str]) -> Callable[[Any], Any]:
    return lambda client: client.list_objects_v2(**page)


def _connect(storage: StorageConfig, keys: dict[str, str]) -> Any:
    is_custom = storage.endpoint is not None
    checksums = "when_required" if is_custom else "when_supported"
    config = Config(
        connect_timeout=S3_CONNECT_SECONDS,
        read_timeout=S3_READ_SECONDS,
        retries={"total_max_attempts": 1, "mode": "standard"},
        s3={"addressing_style": "path" if is_custom else "auto"},
        request_checksum_calculation=checksums,
        response_checksum_validation=checksums,
        tcp_keepalive=True,
    )
    region = storage.region or ("us-east-1" if is_custom else None)
    return boto3.session.Session().client("s3", endpoint_url=storage.endpoint, region_name=region, config=config, **keys)
