"""A healthy job and what a pass sees of it: two members that train formation 1. A test changes only what it is about."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from finetune_contract.messages import MemberPhase
from finetune_contract.reports import Progress
from finetune_contract.state import InputDigests, StateId
from finetune_operator.api.job import FineTuneJob, Metadata
from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.api.status import FormationEntry, JobStatus, MemberEntry, Pinned, PinnedInputs, Placement, Recovery
from finetune_operator.decide.facts.gang import Gang, look
from finetune_operator.decide.facts.observed import LineEntry, Observed, PodPhase, PodView, RunFacts, Session
from finetune_operator.decide.facts.policy import NATIVE

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
INPUTS = InputDigests(model="m" * 64, dataset="d" * 64)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def a_job(
    *, name: str = "bot", uid: str = "ab12cd", created_at: datetime = NOW, status: JobStatus | None = None, nodes=(2, 2), spares=0, **spec
) -> FineTuneJob:
    fields = {
        "model": {"uri": "hf://org/model"},
        "dataset": {"uri": "s3://data/rows.jsonl"},
        "checkpoint": {"uri": "s3://ckpt/bot"},
        "output": {"uri": "s3://out/adapter"},
        "resources": {"nodes": {"min": nodes[0], "max": nodes[1]}, "spares": spares},
    } | spec
    metadata = Metadata(name=name, uid=uid, resource_version="1", generation=1, creation_timestamp=created_at)
    return FineTuneJob(metadata=metadata, spec=FineTuneJobSpec.model_validate(fields), status=status or JobStatus())


def uid_of(serial: int) -> str:
    return f"pod-{serial}"


def a_pod(serial: int, **changes) -> PodView:
    pod = PodView(
        serial=serial, uid=uid_of(serial), name=f"bot-ab12-{serial}", phase=PodPhase.RUNNING, created_at=ago(100), node=f"node-{serial}"
    )
    return replace(pod, **changes)


def some_progress(**changes) -> Progress:
    progress = Progress(
        formation=1,
        step=10,
        total_steps=100,
        epoch=0.1,
        loss=1.5,
        learning_rate=1e-4,
        grad_norm=1.0,
        tokens_total=1000,
        tokens_per_second=100.0,
        step_seconds=1.0,
    )
    return progress.model_copy(update=changes)


def a_session(serial: int, **changes) -> Session:
    run = RunFacts(
        uid="ab12cd",
        phase=MemberPhase.TRAINING,
        formation=1,
        phase_at=ago(50),
        snapshot=StateId(formation=1, step=10),
        commit=None,
        commit_key=None,
        commit_num_bytes=None,
        inputs=INPUTS,
        progress=some_progress() if serial == 1 else None,
        progressed_at=ago(1) if serial == 1 else None,
        failure=None,
        failed_formation=None,
        output=None,
        resumed_step=0,
        first_step_seconds=None,
    )
    session = Session(
        member_uid=uid_of(serial),
        is_connected=True,
        changed_at=ago(90),
        contract_version=1,
        address=f"10.0.0.{serial}",
        port=29500,
        probe_port=7000,
        leaving_until=None,
        run=run,
    )
    return changed_session(session, **changes)


def changed_session(session: Session, **changes) -> Session:
    """Each field where it belongs: to the run, or to the member."""
    of_run = {name: changes.pop(name) for name in tuple(changes) if name in RunFacts.__dataclass_fields__}
    return replace(session, run=replace(session.run, **of_run), **changes)


def a_formation(**changes) -> FormationEntry:
    entry = FormationEntry(number=1, serials=(1, 2), master_port=29500, ordered_at=ago(60), first_step_at=ago(50), resumed_step=0)
    serials = changes.get("serials", entry.serials)
    return entry.model_copy(update={"uids": tuple(uid_of(serial) for serial in serials)} | changes)


def training_status(**changes) -> JobStatus:
    status = JobStatus(
        observed_generation=1,
        phase="Training",
        pinned=Pinned(image="trainer:1", contract_version=1, admitted_at=ago(100), inputs=PinnedInputs.of(INPUTS)),
        last_serial=2,
        members=(MemberEntry(serial=1, uid=uid_of(1)), MemberEntry(serial=2, uid=uid_of(2))),
        formation=a_formation(),
        last_formation=1,
        start_time=ago(100),
    )
    return status.model_copy(update=changes)


def observed(*, job: FineTuneJob | None = None, pods=None, sessions=None, **changes) -> Observed:
    """A job of two members that train, unless told otherwise."""
    return Observed(
        now=NOW,
        job=job or a_job(status=training_status()),
        pods=(a_pod(1), a_pod(2)) if pods is None else tuple(pods),
        sessions=(a_session(1), a_session(2)) if sessions is None else tuple(sessions),
        trainer_image="trainer:1",
        **changes,
    )


def fresh(**spec) -> Observed:
    """A job that was never seen before."""
    return observed(job=a_job(**spec), pods=(), sessions=())


def a_fresh_session(serial: int, **changes) -> Session:
    """A member that has its inputs and has never trained."""
    never = {"phase": MemberPhase.READY, "formation": 0, "snapshot": None, "progress": None, "progressed_at": None, "resumed_step": None}
    return a_session(serial, **(never | changes))


def a_pending_pod(serial: int, **changes) -> PodView:
    """The scheduler has found no room for it."""
    words = "0/1 nodes are available: 1 Insufficient cpu."
    return a_pod(serial, **({"phase": PodPhase.PENDING, "node": None, "unschedulable": words} | changes))


def placing_status(*, since: float = 10, **changes) -> JobStatus:
    """Admitted `since` seconds ago, and not whole yet."""
    placing = {"phase": "Preparing", "formation": None, "last_formation": 0, "placement": Placement(placing_since=ago(since))}
    return training_status(**(placing | changes))


def over_status(*, since: float = 5, **changes) -> JobStatus:
    """Formation 1 is over since so many seconds."""
    over = {"phase": "Recovering", "formation": a_formation(is_over=True, over_at=ago(since)), "recoveries": (a_recovery(at=ago(since)),)}
    return training_status(**(over | changes))


def a_recovery(**changes) -> Recovery:
    """Formation 1 ended, and nothing has begun since."""
    record = Recovery(formation=1, failure_class="Disrupted", reason="bot-ab12-2 was lost: its pod is gone", member="bot-ab12-2", at=ago(5))
    return record.model_copy(update=changes)


def a_line_entry(name: str = "other", **changes) -> LineEntry:
    """A gang that is being placed and for which there is room, younger than every other."""
    entry = LineEntry(
        key=("default", name), uid=f"uid-{name}", priority=0, created_at=NOW, is_placing=True, has_unschedulable=False, has_started=False
    )
    return replace(entry, **changes)


def gang_of(seen: Observed) -> Gang:
    assert seen.job is not None
    return look(seen, seen.job, NATIVE)
