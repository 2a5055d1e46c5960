"""/metrics, /healthz and /readyz on one plain port. A standby is ready too: its caches are warm and its webhook answers.

Whoever reaches the port may read /metrics, so its cost is bounded whoever reads: rendered in a thread, for all readers at once, for a
tenth of the time at most; few readers at a time, each with a deadline. A connection has one request, and gives way to a newer one while
it has not sent it, so the probes wait neither for readers nor behind strangers.
"""

import asyncio
import gzip
import time
from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from finetune_operator.coordinator.door import Door, DoorLimits
from finetune_operator.times import HTTP_READ_SECONDS, METRICS_FRESH_SECONDS

_RENDER_SHARE = 0.1  # of one core
_MAX_READERS = 16
_MAX_WAITING = 48
_CHUNK_BYTES = 64 * 1024
_COMPRESSION = 3
# Readers never take all the room, so there is always somebody who gives way to a probe.
HTTP_LIMITS = DoorLimits(
    total=256,
    of_address=_MAX_READERS + _MAX_WAITING + 32,
    waiting=128,
    waiting_of_address=32,
    greet_seconds=HTTP_READ_SECONDS,
)


class Page:
    """The text of a registry, rendered beside the event loop and kept for a while."""

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float] = time.monotonic) -> None:
        self._registry, self._clock = registry, clock
        self._lock = asyncio.Lock()
        self._fresh_until = float("-inf")
        self._plain = self._zipped = b""

    async def read(self, *, is_zipped: bool) -> bytes:
        """At most a second old, or ten times as old as it takes to render."""
        async with self._lock:
            if self._clock() >= self._fresh_until:
                started = self._clock()
                self._plain, self._zipped = await asyncio.to_thread(self._render)
                ended = self._clock()
                self._fresh_until = ended + max(METRICS_FRESH_SECONDS, (ended - started) / _RENDER_SHARE)
        return self._zipped if is_zipped else self._plain

    def _render(self) -> tuple[bytes, bytes]:
        text = generate_latest(self._registry)
        return text, gzip.compress(text, _COMPRESSION)


class HttpServer:
    """`is_alive` and `missing`, which names what is not ready yet, are asked at every request. `on_refused` hears what was turned away."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        is_alive: Callable[[], bool],
        missing: Callable[[], tuple[str, ...]],
        on_refused: Callable[[str], None] = lambda what: None,
        limits: DoorLimits = HTTP_LIMITS,
    ) -> None:
        self._page, self._is_alive, self._missing, self._limits = Page(registry), is_alive, missing, limits
        self._refuse = on_refused
        self._slots = asyncio.Semaphore(_MAX_READERS)
        self._num_readers = 0
        self._runner: web.AppRunner | None = None
        self._door: Door | None = None

    async def start(self, host: str | None, port: int) -> int:
        """Listen; the port (which `port` 0 leaves to the system)."""
        app = web.Application(middlewares=[_one_request_a_connection])
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        self._runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=1.0, lingering_time=1.0, max_headers=64)
        await self._runner.setup()
        assert self._runner.server is not None, "made by setup"
        self._door = Door(self._limits, self._runner.server, self._refuse)
        return self._door.open(host, port, None)

    @property
    def num_connections(self) -> int:
        return 0 if self._door is None else self._door.num_connections

    async def stop(self) -> None:
        if self._door is not None:
            await self._door.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        if self._num_readers >= _MAX_READERS + _MAX_WAITING:
            self._refuse("busy")
            return web.Response(status=503, headers={"Retry-After": "1"}, text="too many readers of the metrics at once\n")
        self._num_readers += 1
        guest = None if self._door is None else self._door.guest_of(request)
        if self._door is not None and guest is not None:
            self._door.greet(guest)
        try:
            async with asyncio.timeout(HTTP_READ_SECONDS), self._slots:
                return await self._send_page(request)
        except TimeoutError:
            self._refuse("late")
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=503, text="not read in time\n")
        finally:
            self._num_readers -= 1
            if self._door is not None and guest is not None:
                self._door.wait_again(guest, HTTP_READ_SECONDS)  # it may still take what was sent

    async def _send_page(self, request: web.Request) -> web.StreamResponse:
        """In pieces, so that a slow reader costs the size of one."""
        is_zipped = "gzip" in request.headers.get("Accept-Encoding", "")
        body = memoryview(await self._page.read(is_zipped=is_zipped))
        headers = {"Content-Type": CONTENT_TYPE_LATEST, "Vary": "Accept-Encoding"}
        response = web.StreamResponse(headers=headers | ({"Content-Encoding": "gzip"} if is_zipped else {}))
        response.content_length = len(body)
        response.force_close()
        await response.prepare(request)
        for start in range(0, len(body), _CHUNK_BYTES):
            await response.write(bytes(body[start : start + _CHUNK_BYTES]))
        await response.write_eof()
        return response

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n") if self._is_alive() else web.Response(status=503, text="job feed has ended\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        missing = self._missing()
        return web.Response(status=503, text=f"waiting for {', '.join(missing)}\n") if missing else web.Response(text="ok\n")


@web.middleware
async def _one_request_a_connection(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """So that requests are limited by the rate of connections."""
    try:
        response = await handler(request)
    except web.HTTPException as refusal:
        refusal.force_close()
        raise
    if not response.prepared:
        response.force_close()
    return response
