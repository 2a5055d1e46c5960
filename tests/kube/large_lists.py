"""Lists of large objects over HTTP, each object made when it is sent: what is measured is the memory of the client."""

import json
from collections.abc import Callable
from typing import Any

from aiohttp import web

JsonObject = dict[str, Any]
MEGABYTE = 1_000_000


class LargeList:
    """`make(number)` is the object of that number; an annotation of `num_bytes` is added to each. A script of ApiServer: `answer`."""

    def __init__(self, make: Callable[[int], JsonObject], num_items: int, *, num_bytes: int) -> None:
        self._make, self._num_items, self._filler = make, num_items, b"x" * num_bytes

    async def answer(self, request: web.Request) -> web.StreamResponse:
        begin = int(request.query.get("continue") or 0)
        end = min(begin + int(request.query["limit"]), self._num_items)
        metadata = {"resourceVersion": str(1000 + self._num_items), "continue": str(end) if end < self._num_items else ""}
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_compression()  # for whoever says that it is understood
        await response.prepare(request)
        await response.write(f'{{"kind": "List", "metadata": {json.dumps(metadata)}, "items": ['.encode())
        for number in range(begin, end):
            await self._send(response, number, is_last=number == end - 1)
        await response.write(b"]}")
        return response

    async def _send(self, response: web.StreamResponse, number: int, *, is_last: bool) -> None:
        item = self._make(number)
        item["metadata"]["annotations"] = {"filler": "FILLER"}
        before, _, after = json.dumps(item).encode().partition(b"FILLER")
        for part in (before, self._filler, after, b"" if is_last else b","):
            if part:
                await response.write(part)
