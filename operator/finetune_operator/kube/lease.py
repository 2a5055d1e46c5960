"""Leadership by one coordination.k8s.io Lease, changed by compare-and-swap on its resourceVersion.

Expiry is judged by when we saw the lease change, on our own monotonic clock; clocks of other machines count for nothing. While the
API server is away the holder only stops deciding (UNSURE): it goes on when the lease is still its own, and steps down when another
one holds it. It never exits.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any

from finetune_operator.kube.client import ApiClient, ApiError, Unreachable
from finetune_operator.kube.shape import section, text, whole
from finetune_operator.times import LEASE_RETRY_SECONDS, LEASE_SECONDS, LEASE_TRY_SECONDS, MAX_FOREIGN_LEASE_SECONDS, RENEW_DEADLINE_SECONDS

log = logging.getLogger(__name__)
_MAX_TRANSITIONS = 2**31 - 1
_TERMS_EPOCH_SECONDS = 1_577_836_800  # 2020-01-01


class Leadership(Enum):
    """STANDBY: somebody else leads, or nobody yet. UNSURE: we led and cannot tell whether we still do."""

    STANDBY = auto()
    LEADING = auto()
    UNSURE = auto()


class Move(Enum):
    """What to do about the lease as it was read."""

    CREATE = auto()
    RENEW = auto()
    TAKE = auto()
    WAIT = auto()


@dataclass(frozen=True, kw_only=True)
class LeaseView:
    """The lease as read. `unchanged_seconds`: for how long we have seen this very version."""

    holder: str
    transitions: int
    duration_seconds: float
    unchanged_seconds: float


def parse_lease(lease: object, *, unchanged_seconds: float) -> LeaseView:
    """A part that makes no sense counts as absent: a lease that nobody can read is one that nobody holds for long. Raises nothing."""
    spec = section(lease, "spec")
    transitions, duration = whole(spec, "leaseTransitions"), whole(spec, "leaseDurationSeconds")
    return LeaseView(
        holder=text(spec, "holderIdentity"),
        transitions=transitions if transitions is not None and 0 <= transitions < _MAX_TRANSITIONS else 0,
        duration_seconds=duration if duration is not None and 0 < duration <= MAX_FOREIGN_LEASE_SECONDS else LEASE_SECONDS,
        unchanged_seconds=unchanged_seconds,
    )


def decide_lease(lease: LeaseView | None, identity: str) -> Move:
    """Ours is renewed, a missing one is created, a released or expired one is taken; every other one is respected."""
    if lease is None:
        return Move.CREATE
    if lease.holder == identity:
        return Move.RENEW
    if not lease.holder or lease.unchanged_seconds > lease.duration_seconds:
        return Move.TAKE
    return Move.WAIT


def transitions_of_first_lease(wall_seconds: float) -> int:
    """Minutes since 2020: terms must grow also when somebody deletes the lease, or agents would refuse all orders."""
    return max(0, int(wall_seconds - _TERMS_EPOCH_SECONDS) // 60)


class Elector:
    """Runs for leadership until cancelled. `on_change(leadership, term)` is called at every change and must not wait.

    `on_renewed(seconds)` is called after every renewal: so many seconds ago the lease was certainly ours.
    """

    def __init__(
        self,
        client: ApiClient,
        *,
        namespace: str,
        name: str,
        identity: str,
        on_change: Callable[[Leadership, int], None],
        on_renewed: Callable[[float], None],
        random_source: random.Random,
    ) -> None:
        self._client, self._identity, self._random = client, identity, random_source
        self._on_change, self._on_renewed = on_change, on_renewed
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name = name
        self._seen: tuple[str, float] = ("", time.monotonic())
        self._renewed_at = float("-inf")
        self._resource: dict[str, Any] | None = None
        self.leadership = Leadership.STANDBY
        self.term = 0

    async def run(self) -> None:
        """Try every two seconds, with jitter. A leader that could not renew for ten seconds is UNSURE in that very moment."""
        while True:
            try:
                async with asyncio.timeout(min(LEASE_TRY_SECONDS, self._budget_seconds())):
                    leads = await self._try_once()
                self._become(Leadership.LEADING if leads else Leadership.STANDBY)
            except (ApiError, Unreachable, TimeoutError) as error:
                log.warning("lease: %s", str(error) or "no answer in time")
                if self.leadership is Leadership.LEADING and self._budget_seconds() <= 0:
                    self._become(Leadership.UNSURE)
            await asyncio.sleep(min(LEASE_RETRY_SECONDS * self._random.uniform(0.8, 1.0), self._budget_seconds()))

    def _budget_seconds(self) -> float:
        """How long a leader may go on without renewing; for everybody else there is no limit."""
        if self.leadership is not Leadership.LEADING:
            return float("inf")
        return max(0.0, self._renewed_at + RENEW_DEADLINE_SECONDS - time.monotonic())

    async def release(self) -> None:
        """Give the lease back, so that the next leader need not wait; does nothing for a standby."""
        if self.leadership is not Leadership.LEADING or self._resource is None:
            return
        self._resource["spec"] = section(self._resource, "spec") | {
            "holderIdentity": "",
            "leaseDurationSeconds": 1,
            "renewTime": _micro_time(),
        }
        try:
            await self._client.request("PUT", f"{self._collection}/{self._name}", body=self._resource, timeout_seconds=3)
        except (ApiError, Unreachable) as error:
            log.warning("lease was not released: %s", error)
        self.leadership = Leadership.STANDBY

    async def _try_once(self) -> bool:
        """One read and, if it is our turn, one write; True when the lease is ours afterwards."""
        started = time.monotonic()
        lease = await self._read()
        move = decide_lease(lease, self._identity)
        if move is Move.WAIT:
            return False
        transitions = lease.transitions + (move is Move.TAKE) if lease else transitions_of_first_lease(time.time())
        await self._write(move, transitions)
        self._renewed_at, self.term = started, transitions + 1
        self._on_renewed(time.monotonic() - started)
        return True

    async def _read(self) -> LeaseView | None:
        try:
            self._resource = await self._client.request("GET", f"{self._collection}/{self._name}", timeout_seconds=LEASE_TRY_SECONDS)
        except ApiError as error:
            if error.status != 404:
                raise
            self._resource = None
            return None
        version = text(section(self._resource, "metadata"), "resourceVersion")
        if version != self._seen[0]:
            self._seen = (version, time.monotonic())
        return parse_lease(self._resource, unchanged_seconds=time.monotonic() - self._seen[1])

    async def _write(self, move: Move, transitions: int) -> None:
        now = _micro_time()
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": LEASE_SECONDS,
            "leaseTransitions": transitions,
            "renewTime": now,
        }
        if self._resource is None:
            lease = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self._name},
                "spec": spec | {"acquireTime": now},
            }
            self._resource = await self._client.request("POST", self._collection, body=lease)
            return
        acquired = {"acquireTime": now} if move is Move.TAKE else {}
        body = {**self._resource, "spec": {**section(self._resource, "spec"), **spec, **acquired}}
        self._resource = await self._client.request("PUT", f"{self._collection}/{self._name}", body=body)

    def _become(self, leadership: Leadership) -> None:
        if leadership is not self.leadership:
            log.info("leadership: %s, term %d", leadership.name.lower(), self.term)
            self.leadership = leadership
            self._on_change(leadership, self.term)


def _micro_time() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
