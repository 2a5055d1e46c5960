"""/metrics, /healthz and /readyz on one plain port. A standby is ready too: its caches are warm and its webhook answers."""

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST


class HttpServer:
    """`is_alive` and `missing` are asked at every request; `missing` names what is not ready yet."""

    def __init__(self, registry: CollectorRegistry, *, is_alive: Callable[[], bool], missing: Callable[[], tuple[str, ...]]) -> None:
        self._registry, self._is_alive, self._missing = registry, is_alive, missing
        self._runner: web.AppRunner | None = None

    async def start(self, host: str | None, port: int) -> int:
        """Listen; the port (which `port` 0 leaves to the system)."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        self._runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port, reuse_address=True).start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n") if self._is_alive() else web.Response(status=503, text="job feed has ended\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        missing = self._missing()
        return web.Response(status=503, text=f"waiting for {', '.join(missing)}\n") if missing else web.Response(text="ok\n")
