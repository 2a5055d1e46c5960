"""What only the leader does: serve the channel, point the Service at itself, run the passes.

    STANDBY --took the lease--> LEADING --could not renew--> UNSURE --still ours--> LEADING
                                   |                            |
                                   +------- somebody else's ----+--> STANDBY

UNSURE stops the passes and keeps the channel, so that a short absence of the API server costs no agent its connection.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from finetune_contract.backoff import Backoff
from finetune_operator.coordinator.server import Coordinator
from finetune_operator.edge.tls import ServingCertificate
from finetune_operator.kube.client import ApiClient, ApiError, Unreachable
from finetune_operator.kube.endpoints import publish_leader
from finetune_operator.kube.lease import Leadership
from finetune_operator.settings import Settings
from finetune_operator.times import LEADING_MAX_RETRY_SECONDS, LEADING_RETRY_SECONDS, PUBLISH_AGAIN_SECONDS

_BACKOFF = Backoff(first_seconds=LEADING_RETRY_SECONDS, longest_seconds=LEADING_MAX_RETRY_SECONDS)
log = logging.getLogger(__name__)


class Leader:
    """`run_passes(term)` runs until cancelled; it is started when the caches are synced (`wait_synced`) and the channel is open."""

    def __init__(
        self,
        settings: Settings,
        client: ApiClient,
        coordinator: Coordinator,
        certificate: ServingCertificate,
        *,
        wait_synced: Callable[[], Awaitable[None]],
        run_passes: Callable[[int], Coroutine[Any, Any, None]],
    ) -> None:
        self._settings, self._client, self._coordinator, self._certificate = settings, client, coordinator, certificate
        self._wait_synced, self._run_passes = wait_synced, run_passes
        self._changed = asyncio.Event()
        self._wanted = Leadership.STANDBY
        self._term = 0
        self._is_open = False
        self._published_at = float("-inf")
        self._num_failures = 0  # to publish, in a row
        self._passes: asyncio.Task[None] | None = None

    def become(self, leadership: Leadership, term: int) -> None:
        """Told by the elector; takes effect in `run`. Passes end at once, not after whatever `run` waits for."""
        self._wanted, self._term = leadership, term
        if leadership is not Leadership.LEADING and self._passes is not None:
            self._passes.cancel()
        self._published_at = float("-inf")
        self._changed.set()

    async def run(self) -> None:
        """Follow the leadership until cancelled. An error of the passes ends this too: the process starts anew."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_published())
            while True:
                await self._changed.wait()
                self._changed.clear()
                await self._end_passes()
                if self._wanted is Leadership.STANDBY:
                    await self._close_channel()
                elif self._wanted is Leadership.LEADING:
                    await self._wait_synced()
                    if not self._changed.is_set():
                        await self._open_channel()
                    if not self._changed.is_set():
                        self._passes = group.create_task(self._run_passes(self._term))

    async def step_down(self) -> None:
        """At the end of the process: passes, then the Service's address, then the channel."""
        self._wanted = Leadership.STANDBY
        await self._end_passes()
        if self._is_open:
            await self._publish(None)
        await self._close_channel()

    async def _end_passes(self) -> None:
        passes, self._passes = self._passes, None
        if passes is not None:
            passes.cancel()
            await asyncio.wait([passes])

    async def _open_channel(self) -> None:
        if not self._is_open:
            await self._coordinator.start(None, self._settings.channel_port, self._certificate.ssl_context)
            self._is_open = True
            log.info("channel is open")
        await self._publish(self._settings.pod_ip)

    async def _close_channel(self) -> None:
        if self._is_open:
            self._is_open = False
            await self._coordinator.stop()
            log.info("channel is closed")

    async def _keep_published(self) -> None:
        """Somebody may delete the EndpointSlice, or the API server may have been away when it was written."""
        loop = asyncio.get_running_loop()
        while True:
            is_due = loop.time() - self._published_at > PUBLISH_AGAIN_SECONDS
            if is_due and self._is_open and self._wanted is Leadership.LEADING:
                await self._publish(self._settings.pod_ip)
            await asyncio.sleep(_BACKOFF.after(self._num_failures + 1))

    async def _publish(self, pod_ip: str | None) -> None:
        settings = self._settings
        try:
            await publish_leader(self._client, settings.namespace, settings.channel_service, pod_ip, settings.channel_port)
            self._published_at, self._num_failures = asyncio.get_running_loop().time(), 0
        except (ApiError, Unreachable) as error:
            self._num_failures += 1
            log.warning("the channel's Service could not be pointed here: %s", error)
