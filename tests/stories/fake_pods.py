"""Pods of a small cluster in memory: a node has so many slots, a pod takes one, and a deleted pod has a grace period."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from tests.kube.builders import ended_pod

from finetune_operator.api.job import FineTuneJob
from finetune_operator.decide.facts.observed import PodPhase, PodView
from finetune_operator.decide.facts.policy import UNDECORATED, PodDecoration
from finetune_operator.kube.pod_view import parse_pod
from finetune_operator.reconcile.ports import Created, NameTaken, PodInvalid, Refused


class OperatorDied(BaseException):
    """The operator's process ends at this very point."""


@dataclass
class Pod:
    """`seen` is what the informer shows; None until it caught up."""

    job_uid: str
    view: PodView
    ends_at: datetime | None = None
    seen: PodView | None = None
    is_stranger: bool = False  # somebody else made it
    decoration: PodDecoration = UNDECORATED
    is_held: bool = False  # by its scheduling gates


class FakePods:
    """The port `Members`. `slots` bounds how many pods have a node at once."""

    def __init__(self, clock, slots: int = 100) -> None:
        self.clock, self.slots = clock, slots
        self.pods: dict[str, Pod] = {}
        self.made: list[str] = []  # names in order of creation
        self.deleted: list[str] = []
        self.refusal: str | None = None
        self.invalid: str | None = None
        self.num_invalid = 0
        self.quota: int | None = None
        self.foreign_names: set[str] = set()
        self.is_stale = False
        self.dies_after_creations: int | None = None
        self.lost_answers = 0  # so many of the next creations work, but nobody is told
        self.dies_at_birth = False  # containers end before their agent says anything
        self.is_unkind = False  # the scheduler takes the first member of every gang before the second of any
        self.num_uids = 0
        self.waiting: dict[str, str] = {}  # name of a job -> why containers of its pods do not start once they have a node
        self.unplaceable: set[str] = set()  # names of jobs that no node can take
        self.is_gated = False  # Kueue holds every new pod
        self.termination_logs: dict[str, str] = {}  # by uid, as the agents wrote them

    def observe(self, job: FineTuneJob) -> tuple[PodView, ...]:
        shown = [pod.seen for pod in self.pods.values() if pod.job_uid == job.metadata.uid and pod.seen is not None]
        return tuple(sorted(shown, key=lambda pod: pod.serial))

    async def create(self, job: FineTuneJob, serial: int, decoration: PodDecoration) -> Created | NameTaken | Refused | PodInvalid:
        name = job.member_name(serial)
        if name in self.foreign_names:
            return NameTaken()
        known = next((pod for pod in self.pods.values() if pod.view.name == name), None)
        if known is not None:
            known.seen = known.view  # adopted: what was read goes into the cache
            return Created(uid=known.view.uid)
        if self.invalid is not None:
            self.num_invalid += 1
            return PodInvalid(message=self.invalid)
        if self.refusal is not None or (self.quota is not None and sum(not pod.view.is_over for pod in self.pods.values()) >= self.quota):
            return Refused(message=self.refusal or f"403 exceeded quota: pods, limited: {self.quota}")
        self.num_uids += 1
        uid = f"uid-{self.num_uids:03d}-{name}"
        view = PodView(
            serial=serial, uid=uid, name=name, phase=PodPhase.PENDING, created_at=self.clock.now(), is_captured_by_kueue=self.is_gated
        )
        self.pods[uid] = Pod(job_uid=job.metadata.uid, view=view, decoration=decoration, is_held=bool(decoration.scheduling_gates))
        self.made.append(name)
        if self.dies_after_creations is not None:
            self.dies_after_creations -= 1
            if self.dies_after_creations == 0:
                self.dies_after_creations = None
                raise OperatorDied
        if self.lost_answers:
            self.lost_answers -= 1
            raise TimeoutError("POST timed out")
        self.pods[uid].seen = view  # the answer goes into the cache
        return Created(uid=uid)

    async def delete(self, job: FineTuneJob, uid: str, name: str, grace_seconds: int | None) -> None:
        if uid in self.pods and self.pods[uid].ends_at is None:
            self.deleted.append(name)
            self.delete_with_grace(uid, 30 if grace_seconds is None else grace_seconds)

    def delete_with_grace(self, uid: str, seconds: float) -> None:
        pod = self.pods[uid]
        if seconds == 0 or pod.view.is_over or pod.view.node is None:
            del self.pods[uid]
        elif pod.ends_at is None:
            pod.ends_at = self.clock.now() + timedelta(seconds=seconds)
            pod.view = replace(pod.view, is_deleting=True, ends_at=self.clock.now() + timedelta(seconds=seconds))

    def end(self, uid: str, code: int, *, is_oom_killed: bool = False) -> None:
        """The container ended; a pod that was being deleted vanishes. What it left behind is read as on a cluster."""
        pod = self.pods.get(uid)
        if pod is None or pod.ends_at is not None:
            self.pods.pop(uid, None)
            return
        read = parse_pod(ended_pod(code, words=self.termination_logs.get(uid, ""), is_oom_killed=is_oom_killed))
        told = {name: getattr(read, name) for name in ("phase", "exit_code", "last_words", "finished", "is_oom_killed")}
        pod.view = replace(pod.view, **told)

    def tick(self) -> None:
        """Scheduler and kubelet: one decision for each pod, then the informer catches up."""
        order = sorted(self.pods.items(), key=lambda item: item[1].view.serial) if self.is_unkind else list(self.pods.items())
        for uid, pod in order:
            if pod.ends_at is not None and self.clock.now() >= pod.ends_at:
                del self.pods[uid]
            elif pod.view.phase is PodPhase.PENDING and pod.view.node is None:
                if pod.view.is_captured_by_kueue or pod.is_held:
                    continue
                if self.used < self.slots and not any(pod.view.name.startswith(f"{name}-") for name in self.unplaceable):
                    pod.view = replace(pod.view, node="node-1", placed_at=self.clock.now(), unschedulable=None)
                else:
                    pod.view = replace(pod.view, unschedulable="0/1 nodes are available: 1 Insufficient cpu.")
            elif pod.view.phase is PodPhase.PENDING and (words := self._why_waiting(pod.view)) is not None:
                pod.view = replace(pod.view, waiting=words)
            elif pod.view.phase is PodPhase.PENDING:
                pod.view = replace(pod.view, phase=PodPhase.RUNNING)
                if self.dies_at_birth:
                    self.end(uid, 1)
        self.catch_up()

    def _why_waiting(self, view: PodView) -> str | None:
        return view.waiting or next((words for name, words in self.waiting.items() if view.name.startswith(f"{name}-")), None)

    def open_gates(self, num: int = 1000) -> None:
        """Whoever placed these pods lets the oldest of those that it holds go to a node."""
        for pod in [pod for pod in self.pods.values() if pod.is_held][:num]:
            pod.is_held = False

    def catch_up(self) -> None:
        if not self.is_stale:
            for pod in self.pods.values():
                pod.seen = pod.view

    def collect(self, job_uids: set[str]) -> None:
        """Kubernetes' garbage collector: pods without an owner go."""
        for uid in [uid for uid, pod in self.pods.items() if pod.job_uid not in job_uids]:
            del self.pods[uid]

    @property
    def used(self) -> int:
        return sum(pod.view.node is not None and not pod.view.is_over for pod in self.pods.values())
