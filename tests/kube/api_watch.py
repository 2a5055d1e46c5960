"""One watch of the API server: the changes that a selector shows, as lines of a stream, until it ends, breaks or goes silent."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from aiohttp import web
from tests.kube.api_store import Change, Place, selects
from tests.kube.refusals import Refusal

JsonObject = dict[str, Any]
_END, _CUT = object(), object()


class Watch:
    """A test may `tell` it any event, `end` it as the server does, `cut` it half way through a line, or `freeze` it half open."""

    def __init__(self, place: Place, selector: str, *, bookmarks: bool) -> None:
        self.place, self.selector, self._bookmarks = place, selector, bookmarks
        self._lines: asyncio.Queue[bytes | object] = asyncio.Queue()
        self._is_frozen = False

    def see(self, change: Change) -> None:
        """What leaves the selection is told as deleted, as it was before, with the version of the change."""
        if not self.place.holds(change.path):
            return
        was, is_shown = selects(self.selector, change.before), selects(self.selector, change.after)
        if is_shown:
            self.tell("MODIFIED" if was else "ADDED", change.after)
        elif was and change.before is not None:
            metadata = change.before["metadata"] | {"resourceVersion": str(change.version)}
            self.tell("DELETED", {**change.before, "metadata": metadata})

    def tell(self, kind: str, item: Any) -> None:
        self.say(json.dumps({"type": kind, "object": item}).encode() + b"\n")

    def say(self, line: bytes) -> None:
        if not self._is_frozen:
            self._lines.put_nowait(line)

    def bookmark(self, version: int) -> None:
        if self._bookmarks:
            self.tell("BOOKMARK", {"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": str(version)}})

    def expire(self) -> None:
        """410 inside the stream, which ends with it."""
        self.tell("ERROR", Refusal(410, "Expired", "too old resource version").body)
        self.end()

    def end(self) -> None:
        self._lines.put_nowait(_END)

    def cut(self) -> None:
        self._lines.put_nowait(_CUT)

    def freeze(self) -> None:
        """Half open: nothing comes any more, and no end."""
        self._is_frozen = True

    async def serve(self, request: web.Request, seconds: float, version: Callable[[], int]) -> web.StreamResponse:
        """Ends by itself after `seconds`, as it was asked to, with a bookmark before."""
        stream = web.StreamResponse(headers={"Content-Type": "application/json"})
        await stream.prepare(request)
        try:
            async with asyncio.timeout(seconds):
                while (line := await self._lines.get()) is not _END:
                    if line is _CUT:
                        await self._break(stream, request)
                        break
                    assert isinstance(line, bytes)
                    await stream.write(line)
        except TimeoutError:
            if self._is_frozen:
                await asyncio.Event().wait()
            self.bookmark(version())
            while not self._lines.empty() and isinstance(line := self._lines.get_nowait(), bytes):
                await stream.write(line)
        return stream

    async def _break(self, stream: web.StreamResponse, request: web.Request) -> None:
        await stream.write(b'{"type": "MODIFIED", "obj')
        assert request.transport is not None
        request.transport.abort()
