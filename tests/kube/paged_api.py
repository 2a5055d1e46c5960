"""An API server as far as lists need it, over HTTP: pages by `limit` and `continue`, and 410 for a continuation that has expired."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Self

from aiohttp import web

from finetune_operator.kube.client import ApiClient
from finetune_operator.kube.credentials import Credentials

JsonObject = dict[str, Any]
MEGABYTE = 1_000_000


class PagedApi:
    """`make(number)` is the object of that number, made when it is sent; an annotation of `num_bytes` is added to each.

    `num_expiring` continuations expire, and an object vanishes with each. `documents` are whole answers by path; a watch is silent.
    """

    def __init__(self, make: Callable[[int], JsonObject], num_items: int, *, num_bytes: int = 0) -> None:
        self._make, self.num_items, self._filler = make, num_items, b"x" * num_bytes
        self.num_expiring = 0
        self.documents: dict[str, JsonObject] = {}
        self.pages: list[tuple[int, int]] = []  # where each page that was asked for begins, and its limit
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._list)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.credentials = Credentials(server=f"http://127.0.0.1:{port}", ssl_context=None)
        self.client = ApiClient(self.credentials, timeout_seconds=60)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        assert self._runner is not None
        await self._runner.cleanup()

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if request.path in self.documents:
            return web.json_response(self.documents[request.path])
        if "watch" in request.query:
            await asyncio.Event().wait()
        begin, limit = int(request.query.get("continue") or 0), int(request.query["limit"])
        self.pages.append((begin, limit))
        if begin and self.num_expiring:
            self.num_expiring -= 1
            self.num_items -= 1
            return web.json_response({"kind": "Status", "code": 410, "reason": "Expired", "message": "the list is too old"}, status=410)
        end = min(begin + limit, self.num_items)
        metadata = {"resourceVersion": str(1000 + self.num_items), "continue": str(end) if end < self.num_items else ""}
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
