"""kopf as the feed of FineTuneJob events, in a thread and event loop of its own.

An own loop, because kopf cancels every task that was made while it ran, and ends on errors of a watch that we outlive: it is then
started again, and neither channel nor passes notice. It patches nothing; facts about kopf behind each setting are in docs/decisions.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import kopf

from finetune_operator.api.job import GROUP, PLURAL, VERSION
from finetune_operator.edge.loop_thread import LoopThread
from finetune_operator.kube.credentials import Credentials
from finetune_operator.times import FEED_RESTART_SECONDS, FEED_STREAM_SECONDS

JsonObject = dict[str, Any]
OnEvent = Callable[[str | None, JsonObject], None]


class _NoDiffBase(kopf.DiffBaseStorage):  # type: ignore[misc]
    """kopf copies every object for a diff that we never ask for (45 % of its time), and reads an annotation that anybody may write."""

    def build(self, **_: Any) -> JsonObject:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


class _NoProgress(kopf.ProgressStorage):  # type: ignore[misc]
    """No handler of ours has a progress: nothing is read from annotations, and nothing is written."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None

    def purge(self, **_: Any) -> None:
        return None

    def touch(self, **_: Any) -> None:
        return None

    def clear(self, *, essence: Any) -> Any:
        return essence


class JobFeed:
    """`on_event` is called in the caller's loop with (type, object)."""

    def __init__(self, credentials: Credentials, *, namespaces: tuple[str, ...], on_event: OnEvent) -> None:
        self._credentials, self._namespaces, self._on_event = credentials, namespaces, on_event
        self._thread = LoopThread("job feed", restart_seconds=FEED_RESTART_SECONDS)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive

    def start(self) -> None:
        """Start the thread; it runs until `stop`. kopf ends on errors of a watch that we outlive, and is begun again."""
        caller = asyncio.get_running_loop()
        self._thread.start(lambda flag: self._run_once(caller, flag))

    async def stop(self) -> None:
        """End kopf and wait for its thread."""
        await self._thread.stop()

    async def _run_once(self, caller: asyncio.AbstractEventLoop, flag: asyncio.Event) -> None:
        await kopf.operator(
            registry=self._registry(caller),
            settings=_kopf_settings(),
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            identity="finetune-operator",  # for peering only; else kopf asks for the user's name, and a container's user has none
            stop_flag=flag,
        )

    def _registry(self, caller: asyncio.AbstractEventLoop) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        async def login(**_: Any) -> kopf.AiohttpSession:
            return _open_session(self._credentials)

        async def on_job(event: Any, **_: Any) -> None:
            caller.call_soon_threadsafe(self._on_event, event.get("type"), dict(event.get("object") or {}))

        kopf.on.login(registry=registry, errors=kopf.ErrorsMode.TEMPORARY)(login)
        kopf.on.event(f"{GROUP}/{VERSION}", PLURAL, registry=registry)(on_job)
        return registry


def _kopf_settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.process.ultimate_exiting_timeout = None  # it would kill the whole process
    settings.scanning.disabled = True  # needs no rights on namespaces and CRDs
    settings.peering.standalone = True  # leadership is our Lease
    settings.posting.enabled = False  # own recorder
    settings.watching.chunk_size = 10  # a page is held whole, and anybody may make jobs of a megabyte
    settings.watching.initial_streaming = False  # loses objects when the first stream breaks
    settings.networking.request_timeout = 30
    settings.networking.enforce_retry_after = True
    settings.networking.error_backoffs = (0.5, 1, 2, 3, 5, 5, 5, 5, 5)  # then kopf ends, and we start it again
    settings.queueing.idle_timeout = 0.05  # each worker holds its last object meanwhile, and a list starts one for each object
    settings.watching.server_timeout = FEED_STREAM_SECONDS
    settings.watching.client_timeout = settings.watching.inactivity_timeout = (
        FEED_STREAM_SECONDS + 5
    )  # a stream that is still open is half-open
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.persistence.progress_storage = _NoProgress()
    settings.persistence.finalizer = f"{GROUP}/kopf-unused"
    return settings


def _open_session(credentials: Credentials) -> kopf.AiohttpSession:
    """kopf asks again when a token is refused."""
    token = credentials.read_token()
    connector = aiohttp.TCPConnector(ssl=credentials.ssl_context or True)
    session = aiohttp.ClientSession(connector=connector, headers={"Authorization": f"Bearer {token}"} if token else {})
    return kopf.AiohttpSession(server=credentials.server, aiohttp_session=session)
