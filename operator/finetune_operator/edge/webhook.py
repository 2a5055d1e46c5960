"""The webhook's server, in a thread and event loop of its own. Its true client is the API server; whoever reaches the port may pretend.

So a stranger pays nothing and gets little: connections are counted from the moment they are accepted, a request has a deadline and a
size, the bytes of all of them together have a limit, and reviews are worked in turns. Where room ends, whoever waited longest or holds
most is sent away. A review that gets no turn is answered at once, for the API server waits for it.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aiohttp import web

from finetune_operator.coordinator.door import Door, DoorLimits, Guest
from finetune_operator.coordinator.pace import LogBudget
from finetune_operator.edge.admission_review import NotAReview, Validate, answer_review
from finetune_operator.edge.loop_thread import LoopThread
from finetune_operator.edge.turns import AT_ONCE, Busy, Turns
from finetune_operator.times import (
    CERTIFICATE_READ_SECONDS,
    HTTP_READ_SECONDS,
    REVIEW_TURN_SECONDS,
    WEBHOOK_IDLE_SECONDS,
    WEBHOOK_RESTART_SECONDS,
)

log = logging.getLogger(__name__)
WEBHOOK_PATH = "/validate-finetunejob"  # the path in the ValidatingWebhookConfiguration
# etcd takes 1.5 MiB, so the object and the old one have 3 MiB at most; what is larger could not be stored anyway.
MAX_BODY_BYTES = (3 << 20) + (128 << 10)
MAX_BYTES_IN_FLIGHT = 16 << 20  # of a pod with 512 MiB
# A connection costs about 80 KiB. One API server works 200 changes at once, each with a connection of its own if need be.
WEBHOOK_LIMITS = DoorLimits(total=512, of_address=400, waiting=384, waiting_of_address=256, greet_seconds=HTTP_READ_SECONDS)
_JSON = "application/json"


class Bodies:
    """The bytes of requests that are not answered yet. Whoever holds most of them makes room."""

    def __init__(self, most: int, send_away: Callable[[Guest], None]) -> None:
        self._most, self._send_away = most, send_away
        self._held: dict[Guest, int] = {}
        self.num_bytes = 0

    def add(self, guest: Guest, num_bytes: int) -> None:
        self._held[guest] = self._held.get(guest, 0) + num_bytes
        self.num_bytes += num_bytes
        while self.num_bytes > self._most:
            of_address: dict[str, int] = {}
            for holder, held in self._held.items():
                of_address[holder.address] = of_address.get(holder.address, 0) + held
            largest = max(of_address, key=lambda address: of_address[address])
            oldest = next(holder for holder in self._held if holder.address == largest)
            self.drop(oldest)
            self._send_away(oldest)

    def drop(self, guest: Guest) -> None:
        self.num_bytes -= self._held.pop(guest, 0)


class WebhookServer:
    """The requests of one event loop, each answered by `validate` in a thread of its own. `on_refused` hears what was turned away."""

    def __init__(
        self, validate: Validate, limits: DoorLimits = WEBHOOK_LIMITS, on_refused: Callable[[str], None] = lambda what: None
    ) -> None:
        self._validate, self._refuse = validate, on_refused
        self._turns = Turns(REVIEW_TURN_SECONDS)
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="review")
        self._lines = LogBudget()
        self._server = web.Server(
            self._serve,
            access_log=None,
            max_headers=64,
            lingering_time=1.0,
            auto_decompress=False,
            read_bufsize=1 << 14,
            keepalive_timeout=2 * WEBHOOK_IDLE_SECONDS,  # the door is the one to close it
        )
        self._door = Door(limits, self._server, self._note)
        self._bodies = Bodies(MAX_BYTES_IN_FLIGHT, self._door.send_away)

    def open(self, host: str | None, port: int, context: ssl.SSLContext) -> int:
        return self._door.open(host, port, context)

    async def close(self) -> None:
        await self._door.close()
        self._server.pre_shutdown()
        await self._server.shutdown(1.0)
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def num_connections(self) -> int:
        return self._door.num_connections

    @property
    def num_bytes_held(self) -> int:
        """Of requests that are not answered yet."""
        return self._bodies.num_bytes

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        guest = self._door.guest_of(request)
        if guest is None or request.path != WEBHOOK_PATH or request.method != "POST":
            return _refuse(404, f"wanted a POST of an AdmissionReview to {WEBHOOK_PATH}")
        try:
            body = await self._read(request, guest)
            if body is None:
                return _refuse(413, f"wanted at most {MAX_BODY_BYTES} bytes")
            self._door.greet(guest)
            return web.Response(body=await self._answer(guest, body), content_type=_JSON)
        except NotAReview as error:
            return _refuse(400, str(error))
        except Busy:
            self._note("busy")
            return _refuse(503, "too many reviews at once")
        finally:
            self._bodies.drop(guest)
            self._door.wait_again(guest, WEBHOOK_IDLE_SECONDS)

    async def _read(self, request: web.BaseRequest, guest: Guest) -> bytes | None:
        """None if it is too large."""
        if (request.content_length or 0) > MAX_BODY_BYTES:
            return None
        parts = bytearray()
        async for part in request.content.iter_any():
            parts += part
            if len(parts) > MAX_BODY_BYTES:
                return None
            self._bodies.add(guest, len(part))
        return bytes(parts)

    async def _answer(self, guest: Guest, body: bytes) -> bytes:
        async with self._turns.turn(guest.address) as costs:
            answer, seconds = await asyncio.get_running_loop().run_in_executor(self._threads, self._work, body)
            costs.append(seconds)
        if isinstance(answer, NotAReview):
            raise answer
        return answer

    def _work(self, body: bytes) -> tuple[bytes | NotAReview, float]:
        started = time.thread_time()
        try:
            answer: bytes | NotAReview = answer_review(body, self._validate)
        except NotAReview as error:
            answer = error
        return answer, time.thread_time() - started

    def _note(self, what: str) -> None:
        self._refuse(what)
        left_out = self._lines.admit(asyncio.get_running_loop().time())
        if left_out is not None:
            log.warning("the webhook turned a connection away: %s (%d such lines left out)", what, left_out)


class Webhook:
    """A thread that runs the server until `stop`, and reads a renewed certificate."""

    def __init__(self, validate: Validate, on_refused: Callable[[str], None] = lambda what: None) -> None:
        self._validate, self._refuse = validate, on_refused
        self._thread = LoopThread("webhook", restart_seconds=WEBHOOK_RESTART_SECONDS)
        self.is_listening = False

    def start(self, *, port: int, certificate: Path, key: Path) -> None:
        self._thread.start(lambda flag: self._serve(flag, port, certificate, key))

    async def stop(self) -> None:
        """End the server and wait for its thread."""
        await self._thread.stop()

    async def _serve(self, flag: asyncio.Event, port: int, certificate: Path, key: Path) -> None:
        server = WebhookServer(self._validate, on_refused=self._refuse)
        context, served = _new_context(certificate, key), _age(certificate, key)
        try:
            server.open(None, port, context)
            self.is_listening = True
            while not await _is_set(flag, CERTIFICATE_READ_SECONDS):
                if (newest := _age(certificate, key)) != served and _reload(context, certificate, key):
                    served = newest
        finally:
            self.is_listening = False
            await server.close()


async def _is_set(flag: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await flag.wait()
    except TimeoutError:
        return False


def _new_context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context


def _age(*paths: Path) -> tuple[int, ...]:
    return tuple(path.stat().st_mtime_ns for path in paths)


def _reload(context: ssl.SSLContext, certificate: Path, key: Path) -> bool:
    """Whether they belong together: between the two writes of a renewal they do not."""
    try:
        _new_context(certificate, key)
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        log.warning("the webhook's new certificate is not served yet: %s", error)
        return False
    return True


def _refuse(status: int, words: str) -> web.Response:
    response = web.json_response({"error": words}, status=status)
    response.force_close()
    return response
