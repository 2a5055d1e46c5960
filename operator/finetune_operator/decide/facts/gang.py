"""The gang of one job as one pass sees it: places, pods and sessions brought together. It judges nothing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from finetune_contract.messages import MemberPhase
from finetune_contract.state import StateId, newest_state
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.status import FormationEntry, JobStatus
from finetune_operator.decide.facts.gang_spec import GangSpec, gang_spec
from finetune_operator.decide.facts.observed import Observed, PodPhase, PodView, RunFacts, Session
from finetune_operator.decide.facts.policy import PlacementPolicy

WORKING = frozenset({MemberPhase.STARTING, MemberPhase.TRAINING, MemberPhase.EVALUATING, MemberPhase.EXPORTING})
PAST_FIRST_STEP = frozenset({MemberPhase.TRAINING, MemberPhase.EVALUATING, MemberPhase.EXPORTING, MemberPhase.FINISHED})


@dataclass(frozen=True, kw_only=True)
class Member:
    """One place of the gang, or one node rank of a formation. `is_gone`: its pod was seen once and is not there any more."""

    serial: int
    name: str
    uid: str | None
    pod: PodView | None
    session: Session | None
    is_gone: bool

    @property
    def run(self) -> RunFacts | None:
        """What it said of the run; None: it never spoke."""
        return None if self.session is None else self.session.run

    @property
    def is_ended(self) -> bool:
        return self.is_gone or (self.pod is not None and self.pod.is_over)

    @property
    def is_leaving(self) -> bool:
        """It will end soon and said so, or Kubernetes did."""
        if self.is_ended or self.pod is None:
            return False
        told = self.session is not None and self.session.leaving_until is not None
        return told or self.pod.is_deleting or self.pod.disruption is not None

    @property
    def is_connected(self) -> bool:
        return self.session is not None and self.session.is_connected and not self.is_ended

    @property
    def is_working(self) -> bool:
        return self.run is not None and self.is_connected and self.run.phase in WORKING

    @property
    def is_ready(self) -> bool:
        """Its inputs are there and it can take the next start; one that has published takes none."""
        run = self.run
        return self.is_connected and not self.is_leaving and run is not None and run.inputs is not None and run.output is None

    @property
    def is_placed(self) -> bool:
        return self.pod is not None and (self.pod.node is not None or self.pod.phase is not PodPhase.PENDING)

    @property
    def newest_held(self) -> StateId | None:
        """The newest state in its memory: as reported, or as follows from a reported step (a snapshot precedes the report)."""
        if self.run is None:
            return None
        progress = self.run.progress
        return newest_state(self.run.snapshot, StateId(formation=progress.formation, step=progress.step) if progress else None)


@dataclass(frozen=True, kw_only=True)
class Gang:
    """`members` are the listed places; `crew` is the newest formation in node rank order, also when it is over; `spares` have no place.

    A pod is one of them by its noted uid alone. Every other pod of the job is a stray, whatever serial it wears: it may be told to exit.
    """

    observed: Observed
    job: FineTuneJob
    spec: GangSpec
    policy: PlacementPolicy
    members: tuple[Member, ...]
    crew: tuple[Member, ...]
    strays: tuple[PodView, ...]  # not listed; of those that were, the ones in the crew take part until the next formation
    spares: tuple[Member, ...] = ()

    @property
    def now(self) -> datetime:
        return self.observed.now

    @property
    def status(self) -> JobStatus:
        return self.job.status

    @property
    def num_wanted(self) -> int:
        return self.spec.max_nodes

    @property
    def active(self) -> FormationEntry | None:
        """The newest formation unless it is over."""
        entry = self.status.formation
        return None if entry is None or entry.is_over else entry

    @property
    def serials(self) -> frozenset[int]:
        return frozenset(member.serial for member in self.members)

    @cached_property
    def known(self) -> tuple[Member, ...]:
        """Places, crew and spares, each serial once: those who have a say."""
        by_serial = {member.serial: member for member in (*self.crew, *self.members, *self.spares)}
        return tuple(member for _, member in sorted(by_serial.items()))

    @cached_property
    def everyone(self) -> tuple[Member, ...]:
        """Those who have a say and the strays, each pod once: whoever may be told to stop, to exit, or is deleted."""
        uids = {member.uid for member in self.known}
        return (*self.known, *(_stray(pod, self.observed.sessions) for pod in self.strays if pod.uid not in uids))

    @cached_property
    def reached_step(self) -> int:
        """The greatest step that the newest formation reported."""
        entry = self.status.formation
        if entry is None:
            return 0
        reported = [member.run.progress for member in self.crew if member.run is not None and member.run.progress is not None]
        written = 0 if self.status.progress is None or entry.first_step_at is None else self.status.progress.step
        return max((progress.step for progress in reported if progress.formation == entry.number), default=written)

    @property
    def is_placing(self) -> bool:
        """Admitted, and not yet whole."""
        return self.status.placement.placing_since is not None

    @property
    def is_past_training(self) -> bool:
        """Node rank 0 publishes the adapter: it needs nobody else any more."""
        run = self.crew[0].run if self.crew else None
        return self.active is not None and run is not None and self.crew[0].is_connected and run.phase is MemberPhase.EXPORTING


def look(observed: Observed, job: FineTuneJob, policy: PlacementPolicy) -> Gang:
    """Bring together what was observed of one job. Labels of a pod say nothing about whose place it has."""
    pods = {pod.uid: pod for pod in observed.pods}
    members: list[Member] = []
    spares: list[Member] = []
    for entry in job.status.members:
        uid = entry.uid or observed.noted.get(entry.serial)
        (spares if entry.is_spare else members).append(_member(job, entry.serial, uid, pods, observed.sessions))
    listed = {member.serial: member for member in (*members, *spares)}
    formation = job.status.formation
    crew = []
    for serial in formation.serials if formation is not None else ():
        assert formation is not None
        member = listed.get(serial) or _member(job, serial, formation.uid_of(serial), pods, observed.sessions)
        crew.append(member if member.uid is not None else _vanished(member))
    listed_uids = {member.uid for member in listed.values()}
    awaited = {job.member_name(member.serial) for member in listed.values() if member.uid is None}
    strays = tuple(pod for pod in observed.pods if pod.uid not in listed_uids and pod.name not in awaited)
    return Gang(
        observed=observed,
        job=job,
        spec=gang_spec(job.spec),
        policy=policy,
        members=tuple(members),
        crew=tuple(crew),
        strays=strays,
        spares=tuple(spares),
    )


def member_uids(status: JobStatus, noted: Mapping[int, str]) -> frozenset[str]:
    """Uids of the pods that may speak for the job: those of its places and spares, and of its newest formation."""
    listed = {entry.serial for entry in status.members}
    uids = {entry.uid for entry in status.members} | {uid for serial, uid in noted.items() if serial in listed}
    return frozenset(uid for uid in uids | set(status.formation.uids if status.formation is not None else ()) if uid is not None)


def have_all_spoken(job: FineTuneJob, pods: tuple[PodView, ...], sessions: tuple[Session, ...]) -> bool:
    """True when every running pod of this job has an open channel, so that a new leader need not wait for reconnects."""
    taking_part = member_uids(job.status, {})
    awaited = {job.member_name(entry.serial) for entry in job.status.members if entry.uid is None}
    connected = {session.member_uid for session in sessions if session.is_connected}
    waited_for = (pod for pod in pods if pod.uid in taking_part or pod.name in awaited)
    return all(pod.uid in connected for pod in waited_for if pod.phase is PodPhase.RUNNING)


def _member(job: FineTuneJob, serial: int, uid: str | None, pods: Mapping[str, PodView], sessions: Iterable[Session]) -> Member:
    session = next((session for session in sessions if session.member_uid == uid), None)
    name, pod = job.member_name(serial), None if uid is None else pods.get(uid)
    return Member(serial=serial, name=name, uid=uid, pod=pod, session=session, is_gone=uid is not None and pod is None)


def _vanished(member: Member) -> Member:
    """A member of a formation had a pod once."""
    return Member(serial=member.serial, name=member.name, uid=None, pod=None, session=None, is_gone=True)


def _stray(pod: PodView, sessions: Iterable[Session]) -> Member:
    session = next((session for session in sessions if session.member_uid == pod.uid), None)
    return Member(serial=pod.serial, name=pod.name, uid=pod.uid, pod=pod, session=session, is_gone=False)
