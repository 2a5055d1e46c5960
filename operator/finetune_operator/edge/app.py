"""The operator's process: builds every part from the settings, connects them, runs until SIGTERM.

Every replica watches, sweeps and answers the webhook; only the leader opens the channel and runs passes. An error that no part
expects ends the process: it holds no truth that the cluster does not know.
"""

import asyncio
import logging
import random
import signal
import tempfile
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

from prometheus_client import CollectorRegistry, disable_created_metrics

from finetune_operator.api.job import LABEL_JOB_UID
from finetune_operator.api.render_config import render_config
from finetune_operator.coordinator.server import Coordinator
from finetune_operator.decide.facts.observed import PodView
from finetune_operator.edge.authenticate import PodAuthenticator
from finetune_operator.edge.caretaker import Certificates, Sweeper, until_done
from finetune_operator.edge.clock import SteadyClock, WallClock
from finetune_operator.edge.feed import JobFeed
from finetune_operator.edge.http import HttpServer
from finetune_operator.edge.leading import Leader
from finetune_operator.edge.review import review
from finetune_operator.edge.tls import ServingCertificate
from finetune_operator.edge.webhook import Webhook
from finetune_operator.kube.cache import Entry, ObjectCache
from finetune_operator.kube.certificates import service_names
from finetune_operator.kube.client import ApiClient
from finetune_operator.kube.configmaps import JobConfigMaps
from finetune_operator.kube.credentials import Credentials, read_kubeconfig, read_service_account
from finetune_operator.kube.events import EventRecorder
from finetune_operator.kube.informer import Informer, Listeners, Source
from finetune_operator.kube.jobs import ClusterJobs
from finetune_operator.kube.lease import Elector, Leadership
from finetune_operator.kube.members import ClusterMembers
from finetune_operator.kube.meters import Meters
from finetune_operator.kube.pod_view import parse_pod_entry
from finetune_operator.kube.tokens import TokenVerifier, issuer_of
from finetune_operator.metrics import JobCollector, OperatorMetrics
from finetune_operator.reconcile.passes import PassSettings, Reconciler
from finetune_operator.reconcile.ports import Key
from finetune_operator.settings import Settings

log = logging.getLogger(__name__)


def read_credentials(settings: Settings) -> Credentials:
    """Raises CredentialsError."""
    if settings.kubeconfig is not None:
        return read_kubeconfig(settings.kubeconfig)
    return read_service_account(settings.api_server or "https://kubernetes.default.svc")


def _token_verifier(client: ApiClient, meters: Meters) -> TokenVerifier:
    return TokenVerifier(client, issuer=lambda: issuer_of(client.token()), meters=meters)


def _pass_settings(settings: Settings) -> PassSettings:
    return PassSettings(
        trainer_image=settings.trainer_image,
        reconnect_seconds=settings.reconnect_seconds,
        num_workers=settings.num_workers,
        caps=settings.max_priority,
    )


class Operator:
    """All parts of one replica. `run` returns after `stopping` is set and the lease is given back."""

    def __init__(self, settings: Settings, credentials: Credentials, folder: Path) -> None:
        self._settings, self._random, clock = settings, random.Random(), SteadyClock()
        self._registry = CollectorRegistry()
        meters = Meters(self._registry)
        self._client = ApiClient(credentials, meters=meters)
        self._lease_client = ApiClient(credentials, meters=meters)  # renewals never queue behind other writes
        meters.show_writes_waiting(self._client.num_waiting)
        self._pods: ObjectCache[PodView] = ObjectCache()
        self._metrics = OperatorMetrics(self._registry, version=version("finetune-operator"))
        self._recorder = EventRecorder(self._client, instance=settings.pod_name, clock=clock, monotonic=time.monotonic, meters=meters)
        self._jobs = ClusterJobs(
            self._client,
            self._recorder,
            namespaces=settings.watch_namespaces,
            on_change=self._look_at,
            on_written=self._metrics.record_change,
            strangers=self._metrics,
            meters=meters,
        )
        self._coordinator = self._make_coordinator(clock, meters)
        names = service_names(settings.channel_service, settings.namespace) + service_names(settings.webhook_service, settings.namespace)
        self._serving = ServingCertificate(folder, names)
        self._certificates = Certificates(settings, self._client, self._serving, WallClock())
        self._config_maps = JobConfigMaps(
            self._client, url=settings.member_channel_url, ca_bundle=lambda: self._certificates.bundle, render=render_config
        )
        self._members = ClusterMembers(self._client, self._pods, self._config_maps)
        self._sweeper = Sweeper(self._jobs, self._coordinator, look_at_all=self._look_at_all, random_source=self._random)
        self._informers = tuple(self._informer(namespace) for namespace in settings.watch_namespaces or (None,))
        self._feed = JobFeed(credentials, namespaces=settings.watch_namespaces, on_event=self._jobs.apply)
        self._webhook = Webhook(meters.counted(review), on_refused=partial(self._metrics.record_refused, "webhook"))
        self._leader = Leader(
            settings, self._client, self._coordinator, self._serving, wait_synced=self._wait_synced, run_passes=self._run_passes
        )
        self._elector = Elector(
            self._lease_client,
            namespace=settings.namespace,
            name=settings.lease_name,
            identity=settings.pod_name,
            on_change=self._leader.become,
            on_renewed=self._confirm,
            random_source=self._random,
        )
        self._reconciler = Reconciler(
            members=self._members,
            agents=self._coordinator,
            jobs=self._jobs,
            clock=clock,
            settings=_pass_settings(settings),
            recorder=self._metrics,
        )
        self._metrics.show_queue_depth(lambda: self._reconciler.queue.num_waiting)
        self._metrics.show_sessions(lambda: self._coordinator.num_connected)
        self._metrics.show_leadership(self._is_leading)
        self._metrics.show_unreadable_jobs(lambda: self._jobs.num_unreadable)
        self._registry.register(JobCollector(jobs=self._jobs, agents=self._coordinator, clock=clock, is_leading=self._is_leading))
        refused = partial(self._metrics.record_refused, "metrics")
        self._http = HttpServer(self._registry, is_alive=self._is_alive, missing=self._missing, on_refused=refused)
        self._is_filled = self._is_started = False

    def _make_coordinator(self, clock: SteadyClock, meters: Meters) -> Coordinator:
        return Coordinator(
            clock=clock,
            authenticate=self._authenticator(meters),
            on_change=self._look_at_uid,
            on_refused=partial(self._metrics.record_refused, "channel"),
            store_key=lambda: self._certificates.private_key,
        )

    async def run(self, stopping: asyncio.Event) -> None:
        """Raises what no part expected, after the lease is given back."""
        await self._http.start(None, self._settings.metrics_port)
        serving = asyncio.create_task(self._serve(), name="serve")
        stop = asyncio.create_task(stopping.wait(), name="stop")
        await asyncio.wait({serving, stop}, return_when=asyncio.FIRST_COMPLETED)
        log.info("stopping")
        stop.cancel()
        serving.cancel()
        await asyncio.wait({serving})
        await self._leader.step_down()
        await self._elector.release()
        await asyncio.gather(self._feed.stop(), self._webhook.stop())
        await self._http.stop()
        await asyncio.gather(self._client.close(), self._lease_client.close())
        if not serving.cancelled() and (error := serving.exception()) is not None:
            raise error

    async def _serve(self) -> None:
        await until_done("FineTuneJobs", self._jobs.fill)
        self._is_filled = True
        await until_done("certificate authority", self._certificates.refresh)
        self._feed.start()
        self._webhook.start(port=self._settings.webhook_port, certificate=self._serving.certificate_file, key=self._serving.key_file)
        self._is_started = True
        async with asyncio.TaskGroup() as group:
            for informer in self._informers:
                group.create_task(informer.run())
            group.create_task(self._recorder.run())
            group.create_task(self._certificates.keep(self._refresh_channels))
            group.create_task(self._sweeper.run())
            group.create_task(self._leader.run())
            group.create_task(self._elector.run())

    async def _run_passes(self, term: int) -> None:
        """The feed may have missed something while nobody led."""
        await self._sweeper.sweep()
        self._reconciler.lead(term)
        await self._reconciler.run_workers(asyncio.Event())

    def _authenticator(self, meters: Meters) -> PodAuthenticator:
        verifier = _token_verifier(self._client, meters)
        return PodAuthenticator(self._client, verifier, self._pods, is_member=self._is_member, strangers=self._metrics)

    def _is_member(self, key: Key, job_uid: str, pod_uid: str) -> bool:
        return self._reconciler.is_member(key, job_uid, pod_uid)

    def _confirm(self, seconds: float) -> None:
        self._reconciler.confirm(seconds)

    def _informer(self, namespace: str | None) -> Informer[PodView]:
        return Informer(
            self._client,
            Source(prefix="/api/v1", resource="pods", namespace=namespace, label_selector=LABEL_JOB_UID),
            self._pods,
            parse=parse_pod_entry,
            listeners=Listeners(
                on_change=lambda entry: self._look_at(entry.owner_key), on_gone=self._lose_member, on_gap=self._sweeper.ask
            ),
            strangers=self._metrics,
            random_source=self._random,
        )

    def _lose_member(self, entry: Entry[PodView]) -> None:
        """A force-deleted pod may still run on a cut-off node: it is not spoken to any more."""
        self._coordinator.drop(entry.uid)
        self._look_at(entry.owner_key)

    def _look_at(self, key: Key) -> None:
        self._reconciler.wake(key)

    def _look_at_uid(self, job_uid: str) -> None:
        key = self._jobs.key_of(job_uid)
        if key is not None:
            self._reconciler.wake(key)

    def _look_at_all(self) -> None:
        for key in self._jobs.keys():  # noqa: SIM118
            self._reconciler.wake(key)

    async def _refresh_channels(self) -> None:
        if self._is_leading():
            jobs = (self._jobs.get(key) for key in self._jobs.keys())  # noqa: SIM118
            await self._config_maps.ensure_known(tuple(job for job in jobs if job is not None))

    async def _wait_synced(self) -> None:
        for informer in self._informers:
            await informer.synced.wait()

    def _is_leading(self) -> bool:
        return self._elector.leadership is Leadership.LEADING

    def _is_alive(self) -> bool:
        return not self._is_started or self._feed.is_alive

    def _missing(self) -> tuple[str, ...]:
        """What keeps this replica from being ready, in the order in which it comes."""
        if not self._is_filled:
            return ("jobs",)
        if not all(informer.synced.is_set() for informer in self._informers):
            return ("pods",)
        return () if self._webhook.is_listening else ("webhook",)


async def run_operator(settings: Settings) -> None:
    """Run one replica until SIGTERM or SIGINT. Raises CredentialsError and what no part expected."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each, and nobody reads it
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    with tempfile.TemporaryDirectory(prefix="finetune-operator-") as folder:
        await Operator(settings, read_credentials(settings), Path(folder)).run(stopping)
