"""What every replica does now and then: compare caches with the API server, keep certificates valid, look at every job again."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

from finetune_operator.coordinator.server import Coordinator
from finetune_operator.edge.tls import ServingCertificate
from finetune_operator.kube.certificates import Authority, ensure_authority, publish_bundle
from finetune_operator.kube.client import ApiClient, ApiError, Unreachable
from finetune_operator.kube.jobs import ClusterJobs
from finetune_operator.reconcile.ports import Clock
from finetune_operator.settings import Settings
from finetune_operator.times import CARETAKER_RETRY_SECONDS, CERTIFICATE_CHECK_SECONDS, SWEEP_SECONDS

log = logging.getLogger(__name__)


async def until_done(what: str, action: Callable[[], Awaitable[None]]) -> None:
    """Repeat until the API server lets it happen; every refusal is logged in its words."""
    while True:
        try:
            await action()
        except (ApiError, Unreachable, OSError) as error:
            log.warning("%s: %s; trying again", what, error)
            await asyncio.sleep(CARETAKER_RETRY_SECONDS)
        else:
            return


class Certificates:
    """The authority as last read, and this replica's certificate made from it."""

    def __init__(self, settings: Settings, client: ApiClient, serving: ServingCertificate, clock: Clock) -> None:
        self._settings, self._client, self._serving, self._clock = settings, client, serving, clock
        self._authority: Authority | None = None
        self._refused: str | None = None

    @property
    def bundle(self) -> str:
        assert self._authority is not None, "the authority is read before the first member is made"
        return self._authority.bundle

    @property
    def private_key(self) -> bytes:
        """Known to every leader and to nobody else; it makes the secrets of formations."""
        assert self._authority is not None, "the authority is read before the channel is opened"
        return self._authority.current.key.encode()

    async def refresh(self) -> None:
        """Read, make or rotate the authority and renew the certificate. Raises ApiError, Unreachable, and OSError before there is any."""
        now = self._clock.now()
        self._authority = await ensure_authority(self._client, self._settings.namespace, self._settings.ca_secret_name, now)
        try:
            if self._serving.renew(self._authority, now):
                log.info("serving certificate renewed")
        except OSError as error:
            if not self._serving.is_made:
                raise
            log.error("the serving certificate was not renewed, the one before is served on: %s", error)

    async def publish(self) -> None:
        """Tell the API server whom to trust for the webhook. Without the right, or without a webhook, jobs work all the same."""
        try:
            await publish_bundle(self._client, self._settings.webhook_configuration, self.bundle)
            self._refused = None
        except (ApiError, Unreachable) as error:
            if str(error) != self._refused:
                log.warning("the webhook's caBundle is not kept up to date: %s", error)
            self._refused = str(error)

    async def keep(self, refresh_channels: Callable[[], Awaitable[None]]) -> None:
        """For ever; `refresh_channels` rewrites the bundle that members read."""
        while True:
            await self.publish()
            await asyncio.sleep(CERTIFICATE_CHECK_SECONDS)
            await until_done("certificate authority", self.refresh)
            try:
                await refresh_channels()
            except (ApiError, Unreachable) as error:
                log.warning("the channel's bundle was not refreshed everywhere: %s", error)


class Sweeper:
    """Compares caches with the API server every ten minutes, and at once after the watch of pods had a gap: jobs had it, too."""

    def __init__(
        self, jobs: ClusterJobs, coordinator: Coordinator, *, look_at_all: Callable[[], None], random_source: random.Random
    ) -> None:
        self._jobs, self._coordinator, self._look_at_all, self._random = jobs, coordinator, look_at_all, random_source
        self._asked = asyncio.Event()

    def ask(self) -> None:
        self._asked.set()

    async def sweep(self) -> None:
        """No ghosts among jobs and sessions, and every job is looked at once more."""
        await until_done("sweep", self._jobs.sweep)
        self._coordinator.forget_jobs_except(self._jobs.uids())
        self._look_at_all()

    async def run(self) -> None:
        """For ever, with jitter."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_SECONDS * self._random.uniform(0.9, 1.1)):
                    await self._asked.wait()
            self._asked.clear()
            await self.sweep()
