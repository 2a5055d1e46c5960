"""A small client of the Kubernetes API: JSON in, JSON out, with deadlines, pacing of writes and 429 honoured.

It knows no kinds and keeps no cache. Why not the `kubernetes` package: it is 126 MiB, the operator's image stays below 120 MB.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import aiohttp

from finetune_operator.kube.credentials import Credentials

JsonObject = dict[str, Any]

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

_PAGE_SIZE = 500
_MAX_THROTTLED_TRIES = 4
_MAX_RETRY_AFTER_SECONDS = 10.0
_TOKEN_LIFE_SECONDS = 60.0


class ApiError(Exception):
    """The API server refused; `reason` is metav1.Status' reason (AlreadyExists, Conflict, ...), `message` its words."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


class Unreachable(Exception):
    """No answer from the API server within the deadline, or no connection."""


class Pace:
    """A token bucket: `rate` a second on average, `burst` at once."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._tokens, self._at = burst, clock()

    def take(self) -> float:
        """Take one token, on credit if there is none; seconds to wait before using it."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate) - 1
        self._at = now
        return max(0.0, -self._tokens / self._rate)

    def try_take(self) -> bool:
        """Take one token only if there is one."""
        if self.take() > 0:
            self._tokens += 1
            return False
        return True


class ApiClient:
    """One connection pool to one API server; `close` ends it."""

    def __init__(self, credentials: Credentials, *, timeout_seconds: float = 10.0) -> None:
        self._credentials = credentials
        self._timeout_seconds = timeout_seconds
        self._session: aiohttp.ClientSession | None = None
        self._writes = Pace(rate=50, burst=100)
        self._token: tuple[float, str | None] = (float("-inf"), None)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: JsonObject | None = None,
        params: Mapping[str, str] | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        timeout_seconds: float | None = None,
    ) -> JsonObject:
        """Raises ApiError for an answer that is no success, Unreachable for none. Waits and tries again on 429."""
        if method != "GET":
            await asyncio.sleep(self._writes.take())
        for attempt in range(1, _MAX_THROTTLED_TRIES + 1):
            try:
                async with asyncio.timeout(timeout_seconds or self._timeout_seconds):
                    return await self._request_once(method, path, body, params, (content_type, accept))
            except _Throttled as throttled:
                if attempt == _MAX_THROTTLED_TRIES:
                    raise throttled.error from None
                await asyncio.sleep(throttled.retry_after_seconds)
            except (TimeoutError, aiohttp.ClientError) as error:
                raise Unreachable(f"{method} {path}: {str(error) or 'no answer in time'}") from error
        raise AssertionError("unreachable code")

    async def _request_once(
        self, method: str, path: str, body: JsonObject | None, params: Mapping[str, str] | None, types: tuple[str, str]
    ) -> JsonObject:
        headers = {**self._headers(), "Accept": types[1]}
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), types[0]
        async with self._open().request(method, self._url(path), params=params, data=data, headers=headers) as response:
            answer = _parse_body(await response.read())
            if response.status >= 400:
                error = _error_of(response.status, response.reason, answer)
                retry_after = response.headers.get("Retry-After")
                if response.status == 401:
                    self._token = (float("-inf"), None)  # renewed since it was read
                if response.status == 429:
                    raise _Throttled(error, _retry_seconds(retry_after))
                raise error
            return answer

    async def list_all(self, path: str, params: Mapping[str, str] | None = None, accept: str = JSON) -> tuple[list[JsonObject], str]:
        """All items, read page by page, and the resourceVersion to watch from."""
        items: list[JsonObject] = []
        query = {**(params or {}), "limit": str(_PAGE_SIZE)}
        while True:
            page = await self.request("GET", path, params=query, accept=accept, timeout_seconds=30)
            items += page.get("items") or []
            metadata = page["metadata"]
            if not metadata.get("continue"):
                return items, metadata["resourceVersion"]
            query["continue"] = metadata["continue"]

    async def watch(
        self, path: str, params: Mapping[str, str], *, server_seconds: int = 300, inactivity_seconds: float = 70.0
    ) -> AsyncIterator[tuple[str, JsonObject]]:
        """(type, object) pairs until the server ends the stream. Raises ApiError (410 too), and Unreachable when a stream goes silent."""
        query = {**params, "watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(server_seconds)}
        silence = aiohttp.ClientTimeout(total=None, connect=10, sock_read=inactivity_seconds)
        try:
            async with self._open().get(self._url(path), params=query, headers=self._headers(), timeout=silence) as response:
                if response.status >= 400:
                    raise _error_of(response.status, response.reason, _parse_body(await response.read()))
                async for line in _lines(response.content):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise _error_of(event["object"].get("code", 500), None, event["object"])
                    yield event["type"], event["object"]
        except (TimeoutError, aiohttp.ClientError) as error:
            raise Unreachable(f"WATCH {path}: {str(error) or 'stream went silent'}") from error

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=64, ssl=self._credentials.ssl_context or True)
            self._session = aiohttp.ClientSession(connector=connector, trust_env=False, headers={"User-Agent": "finetune-operator"})
        return self._session

    def _url(self, path: str) -> str:
        return f"{self._credentials.server.rstrip('/')}{path}"

    def _headers(self) -> dict[str, str]:
        read_at, token = self._token
        if time.monotonic() - read_at > _TOKEN_LIFE_SECONDS:
            token = self._credentials.read_token()
            self._token = (time.monotonic(), token)
        return {"Authorization": f"Bearer {token}"} if token else {}


class _Throttled(Exception):
    def __init__(self, error: ApiError, retry_after_seconds: float) -> None:
        super().__init__()
        self.error = error
        self.retry_after_seconds = retry_after_seconds


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length; StreamReader.readline refuses a long one, and a pod may be 1 MiB."""
    parts: list[bytes] = []
    async for chunk in stream.iter_any():
        *ended, rest = chunk.split(b"\n")
        for end in ended:
            line = b"".join([*parts, end])
            parts = []
            if line:
                yield line
        if rest:
            parts.append(rest)


def _parse_body(body: bytes) -> JsonObject:
    try:
        parsed = json.loads(body) if body else {}
    except ValueError:
        return {"message": body[:300].decode(errors="replace")}  # a proxy's page, or the plain text of an early refusal
    return parsed if isinstance(parsed, dict) else {"message": str(parsed)[:300]}


def _error_of(status: int, reason: str | None, answer: JsonObject) -> ApiError:
    return ApiError(status, answer.get("reason") or reason or "", answer.get("message") or "")


def _retry_seconds(header: str | None) -> float:
    return min(float(header), _MAX_RETRY_AFTER_SECONDS) if header and header.isdigit() else 1.0
