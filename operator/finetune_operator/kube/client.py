"""A small client of the Kubernetes API: JSON in, JSON out, with deadlines, writes in fair turns and Retry-After honoured.

It knows no kinds and keeps no cache. Why not the `kubernetes` package: it is 126 MiB, the operator's image stays below 120 MB.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import aiohttp
from prometheus_client import CollectorRegistry

from finetune_operator.kube.bodies import PageTooLong, lines, read_page
from finetune_operator.kube.credentials import Credentials
from finetune_operator.kube.meters import Meters
from finetune_operator.kube.turns import Lane, Pace, Turns, lane_of, payer_of
from finetune_operator.reconcile.ports import Unavailable
from finetune_operator.times import CALL_SECONDS, MAX_RETRY_AFTER_SECONDS, OWN_TOKEN_LIFE_SECONDS

JsonObject = dict[str, Any]
T = TypeVar("T")

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

_PAGE_SIZE = 100
_MAX_LISTS = 3
_MAX_THROTTLED_TRIES = 4
_WRITES_A_SECOND = 50
_BURST = 100
_MAX_CAUSES = 32


class ApiError(Exception):
    """The API server refused; `reason` is metav1.Status' reason (AlreadyExists, Conflict, ...), `message` its words.

    `fields` are the paths that it objects to, as far as it names them.
    """

    def __init__(self, status: int, reason: str, message: str, fields: tuple[str, ...] = ()) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.fields = fields


class Overloaded(ApiError, Unavailable):
    """429 or 5xx: it says nothing about the request."""


class Unreachable(Unavailable):
    """No answer from the API server within the deadline, or no connection."""


class ApiClient:
    """One connection pool to one API server; `close` ends it."""

    def __init__(self, credentials: Credentials, *, timeout_seconds: float = CALL_SECONDS, meters: Meters | None = None) -> None:
        self._credentials = credentials
        self._timeout_seconds = timeout_seconds
        self._session: aiohttp.ClientSession | None = None
        self._meters = meters or Meters(CollectorRegistry())
        self._turns = Turns(Pace(rate=_WRITES_A_SECOND, burst=_BURST))
        self._paging = asyncio.Lock()
        self._token: tuple[float, str | None] = (float("-inf"), None)

    def num_waiting(self, lane: Lane) -> int:
        """Writes of one lane that wait for their turn."""
        return self._turns.num_waiting(lane)

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
        """Raises ApiError for an answer that is no success, Unreachable for none. Waits and tries again on 429, and on 503 with a date.

        A write waits for the turn of its namespace, but for reviews of tokens, which their caller paces.
        """
        data = _render_body(body)
        for attempt in range(1, _MAX_THROTTLED_TRIES + 1):
            if method != "GET" and not path.endswith("/tokenreviews"):
                await self._turns.take(lane_of(path, body), payer_of(path))
            try:
                async with asyncio.timeout(timeout_seconds or self._timeout_seconds):
                    return await self._request_once(method, path, data, params, (content_type, accept))
            except _Throttled as throttled:
                if attempt == _MAX_THROTTLED_TRIES:
                    raise throttled.error from None
                await asyncio.sleep(throttled.retry_after_seconds)
            except (TimeoutError, aiohttp.ClientError) as error:
                raise Unreachable(f"{method} {path}: {str(error) or 'no answer in time'}") from error
        raise AssertionError("unreachable code")

    async def _request_once(
        self, method: str, path: str, data: bytes | None, params: Mapping[str, str] | None, types: tuple[str, str]
    ) -> JsonObject:
        headers = {**self._headers(), "Accept": types[1]}
        limit = (params or {}).get("limit") if method == "GET" else None
        if limit is not None:
            headers["Accept-Encoding"] = "identity"  # else a short answer may become a long one
        if data is not None:
            headers["Content-Type"] = types[0]
        started, code = time.monotonic(), None
        try:
            async with self._open().request(method, self._url(path), params=params, data=data, headers=headers) as response:
                code = response.status
                is_bounded = limit is not None and int(limit) > 1 and code < 400
                answer = _parse_body(await (read_page(response.content) if is_bounded else response.read()))
        finally:
            self._meters.record_request("LIST" if limit is not None else method, path, code, time.monotonic() - started)
        if code >= 400:
            error = _error_of(code, response.reason, answer)
            retry_after = response.headers.get("Retry-After")
            if code == 401:
                self._token = (float("-inf"), None)  # renewed since it was read
            if code == 429 or (code == 503 and retry_after):
                raise _Throttled(error, _retry_seconds(retry_after))
            raise error
        return answer

    async def list_all(
        self, path: str, read: Callable[[JsonObject], T | None], params: Mapping[str, str] | None = None, accept: str = JSON
    ) -> tuple[list[T], str]:
        """What `read` makes of each item, and the resourceVersion to watch from; of the items themselves one page is held at a time.

        A list that expires half way is begun anew. Raises ApiError when it expires again and again.
        """
        for tries_left in reversed(range(_MAX_LISTS)):
            try:
                return await self._list_once(path, read, params or {}, accept)
            except ApiError as error:
                if error.status != 410 or not tries_left:
                    raise
        raise AssertionError("unreachable code")

    async def _list_once(
        self, path: str, read: Callable[[JsonObject], T | None], params: Mapping[str, str], accept: str
    ) -> tuple[list[T], str]:
        made: list[T] = []
        query, limit = dict(params), _PAGE_SIZE
        while True:
            try:
                page = await self._list_page(path, read, {**query, "limit": str(limit)}, accept)
            except PageTooLong:
                limit //= 2
                continue
            made += page.made
            if not page.rest:
                return made, page.version
            query["continue"] = page.rest

    async def _list_page(self, path: str, read: Callable[[JsonObject], T | None], query: Mapping[str, str], accept: str) -> "_Page[T]":
        """Read by one caller at a time, for a page of strange objects may take many times its length in memory."""
        async with self._paging:
            answer = await self.request("GET", path, params=query, accept=accept, timeout_seconds=30)
        found, metadata = answer.get("items") or [], answer.get("metadata")
        if not isinstance(found, list) or not isinstance(metadata, dict) or "resourceVersion" not in metadata:
            raise Unreachable(f"LIST {path}: the answer is no list")
        made = [one for item in found if isinstance(item, dict) and (one := read(item)) is not None]
        return _Page(made=made, rest=str(metadata.get("continue") or ""), version=str(metadata["resourceVersion"]))

    async def watch(
        self, path: str, params: Mapping[str, str], *, server_seconds: int = 300, inactivity_seconds: float = 70.0
    ) -> AsyncIterator[tuple[str, JsonObject]]:
        """(type, object) pairs until the server ends the stream. Raises ApiError (410 too), and Unreachable when a stream goes silent."""
        query = {**params, "watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(server_seconds)}
        silence = aiohttp.ClientTimeout(total=None, connect=10, sock_read=inactivity_seconds)
        why = "silent"
        try:
            async with self._open().get(self._url(path), params=query, headers=self._headers(), timeout=silence) as response:
                if response.status >= 400:
                    raise _error_of(response.status, response.reason, _parse_body(await response.read()))
                async for line in lines(response.content):
                    yield _parse_event(line)
            why = "closed"
        except ApiError as error:
            why = "expired" if error.status == 410 else "refused"
            raise
        except (TimeoutError, aiohttp.ClientError) as error:
            raise Unreachable(f"WATCH {path}: {str(error) or 'stream went silent'}") from error
        finally:
            self._meters.record_watch_end(path, why)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=64, ssl=self._credentials.ssl_context or True)
            self._session = aiohttp.ClientSession(connector=connector, trust_env=False, headers={"User-Agent": "finetune-operator"})
        return self._session

    def _url(self, path: str) -> str:
        return f"{self._credentials.server.rstrip('/')}{path}"

    def token(self) -> str | None:
        """Our own, read again for every minute of use."""
        read_at, token = self._token
        if time.monotonic() - read_at > OWN_TOKEN_LIFE_SECONDS:
            token = self._credentials.read_token()
            self._token = (time.monotonic(), token)
        return token

    def _headers(self) -> dict[str, str]:
        token = self.token()
        return {"Authorization": f"Bearer {token}"} if token else {}


@dataclass(frozen=True, kw_only=True)
class _Page(Generic[T]):
    """What was made of its items; `rest` continues the list, empty at its end."""

    made: list[T]
    rest: str
    version: str


class _Throttled(Exception):
    def __init__(self, error: ApiError, retry_after_seconds: float) -> None:
        super().__init__()
        self.error = error
        self.retry_after_seconds = retry_after_seconds


def _parse_event(line: bytes) -> tuple[str, JsonObject]:
    """Raises ApiError for an event that is an error, and Unreachable for a line that is no event: the stream is broken."""
    try:
        event = json.loads(line)
        kind, item = event["type"], event["object"]
    except (ValueError, RecursionError, KeyError, TypeError):
        kind, item = None, None
    if not isinstance(kind, str) or not isinstance(item, dict):
        raise Unreachable("WATCH: the stream holds a line that is no event")
    if kind == "ERROR":
        code = item.get("code")
        raise _error_of(code if isinstance(code, int) else 500, None, item)
    return kind, item


def _parse_body(body: bytes | bytearray) -> JsonObject:
    try:
        parsed = json.loads(body) if body else {}
    except (ValueError, RecursionError):
        return {"message": body[:300].decode(errors="replace")}  # a proxy's page, or the plain text of an early refusal
    return parsed if isinstance(parsed, dict) else {"message": str(parsed)[:300]}


def _render_body(body: JsonObject | None) -> bytes | None:
    """Raises ApiError, as the API server would refuse it, for a number that JSON does not know."""
    try:
        return None if body is None else json.dumps(body, allow_nan=False).encode()
    except ValueError:
        raise ApiError(400, "BadRequest", "the object holds a number that is not finite") from None


def _error_of(status: int, reason: str | None, answer: JsonObject) -> ApiError:
    kind = Overloaded if status == 429 or status >= 500 else ApiError
    return kind(status, str(answer.get("reason") or reason or ""), str(answer.get("message") or ""), _fields_of(answer.get("details")))


def _fields_of(details: object) -> tuple[str, ...]:
    causes = details.get("causes") if isinstance(details, dict) else None
    named = [cause.get("field") for cause in causes[:_MAX_CAUSES] if isinstance(cause, dict)] if isinstance(causes, list) else []
    return tuple(field for field in named if isinstance(field, str))


def _retry_seconds(header: str | None) -> float:
    """Seconds as digits; a date, or nonsense, counts as one second."""
    is_number = header is not None and header.isascii() and header.isdigit() and len(header) < 10
    return min(float(header or 0), MAX_RETRY_AFTER_SECONDS) if is_number else 1.0
