"""The newest formation: stop one that lost a member, start the next when the gang is ready. Pure; orders are derived elsewhere.

ordered --first step--> training --trouble--> over --gang ready--> the next one
                            |___ a replacement is ready (make before break) ___^
"""

from dataclasses import dataclass, replace
from datetime import timedelta

from finetune_contract.failures import FailureClass, FailureKind
from finetune_contract.plurals import counted
from finetune_contract.state import newest_state
from finetune_contract.values import changed
from finetune_operator.api.status import FormationEntry, JobStatus, MemberFailures, Pinned, PinnedInputs
from finetune_operator.decide.answers.decision import Event
from finetune_operator.decide.facts.gang import PAST_FIRST_STEP, Gang, Member
from finetune_operator.decide.recovering import recoveries
from finetune_operator.decide.recovering.diagnosis import Diagnosis
from finetune_operator.decide.recovering.remedy import Remedy, made_progress, remedy_for
from finetune_operator.decide.recovering.resume import next_crew, next_number, resume_point, seconds_until_smaller
from finetune_operator.decide.recovering.trouble import Trouble, told_to_end
from finetune_operator.times import BETTER_EVIDENCE_SECONDS, INSPECT_SECONDS, LOOK_AT_COMMIT_SECONDS


@dataclass(frozen=True, kw_only=True)
class FormationAnswer:
    """`why` goes into stops."""

    status: JobStatus
    why: str = "the formation is over"
    events: tuple[Event, ...] = ()
    look_again_seconds: float | None = None


def form(gang: Gang, diagnosis: Diagnosis, status: JobStatus) -> FormationAnswer:
    """The rules of formations, in the order of a formation's life."""
    answer = FormationAnswer(status=status)
    for rule in FORMATION_RULES:
        answer = rule(gang, diagnosis, answer)
    return answer


def note_the_first_step(gang: Gang, diagnosis: Diagnosis, answer: FormationAnswer) -> FormationAnswer:
    """Training begins with the first step that a formation has finished."""
    entry = gang.active
    if entry is None or entry.first_step_at is not None or not gang.crew:
        return answer
    run = gang.crew[0].run
    if run is None or run.formation != entry.number or run.phase not in PAST_FIRST_STEP:
        return answer
    known = [member.run.resumed_step for member in gang.crew if member.run is not None and member.run.resumed_step is not None]
    resumed = known[0] if known else (entry.resume.step if entry.resume is not None else 0)
    begun = changed(entry, first_step_at=gang.now, resumed_step=resumed)
    first = run.first_step_seconds
    status = recoveries.complete(changed(answer.status, formation=begun), begun, first, gang.now)
    nodes = counted(len(entry.serials), "member")
    if resumed:
        event = Event(type="Normal", reason="Resumed", message=f"formation {entry.number}: resumed from step {resumed} on {nodes}")
    else:
        event = Event(type="Normal", reason="TrainingStarted", message=f"formation {entry.number}: training started on {nodes}")
    return replace(answer, status=status, events=(event, *_suspect_after_a_replay(answer.status, begun)))


def _suspect_after_a_replay(before: JobStatus, begun: FormationEntry) -> tuple[Event, ...]:
    """The step that was not finite was finite on other ranks."""
    record = before.recoveries[-1] if before.recoveries else None
    if record is None or record.failure_class != FailureClass.NOT_FINITE or record.total_seconds is not None or record.member is None:
        return ()
    if (begun.resumed_step or 0) < begun.furthest_step or len(begun.serials) == 1:
        return ()
    what = f"step {begun.furthest_step + 1} was not finite on this member and is finite now that other ranks computed its rows"
    return (Event(type="Warning", reason="SuspectHardware", message=f"{record.member}: {what}; check the hardware of its node"),)


def forgive_crashes_before_progress(gang: Gang, diagnosis: Diagnosis, answer: FormationAnswer) -> FormationAnswer:
    """A step that none before had finished: crashes are counted from here again."""
    restarts = answer.status.restarts
    if gang.active is None or restarts.crashes_without_progress == 0 or not made_progress(gang):
        return answer
    forgiven = changed(restarts, crashes_without_progress=0)
    return replace(answer, status=changed(answer.status, restarts=forgiven))


def stop_a_formation_that_lost_a_member(gang: Gang, diagnosis: Diagnosis, answer: FormationAnswer) -> FormationAnswer:
    """It is over once, by the evidence that explains it best; better evidence may come until the next one starts."""
    return answer if diagnosis.cause is None else _end(gang, answer, diagnosis.cause)


def _end(gang: Gang, answer: FormationAnswer, trouble: Trouble) -> FormationAnswer:
    entry = answer.status.formation
    assert entry is not None
    known = recoveries.of_formation(answer.status, entry.number)
    if entry.is_over:
        if known is None or trouble == recoveries.trouble_of_record(known):
            return answer
        return replace(answer, status=recoveries.amend(answer.status, known, trouble))
    over = changed(entry, is_over=True, over_at=gang.now)
    status = recoveries.begin(changed(answer.status, formation=over), gang, trouble)
    return replace(answer, status=status, why=trouble.message, events=(*answer.events, *_event_of(trouble)))


def start_the_next_formation_when_the_gang_is_ready(gang: Gang, diagnosis: Diagnosis, answer: FormationAnswer) -> FormationAnswer:
    """Also while one runs: without its leaving member once the replacement is ready, or larger."""
    if not gang.observed.is_reconnect_over:
        return answer
    entry, crew = answer.status.formation, next_crew(gang)
    if not crew or gang.is_past_training:
        wait = seconds_until_smaller(gang)
        return answer if wait is None else replace(answer, look_again_seconds=wait)
    if entry is not None and not entry.is_over and not _is_worth_a_change(gang, entry, crew):
        return answer
    saver = None if entry is None else _saver_of_the_last_state(gang, entry, crew)
    if saver is not None and entry is not None:
        answer = answer if entry.is_over else _end(gang, answer, told_to_end(saver))
        return replace(answer, look_again_seconds=LOOK_AT_COMMIT_SECONDS)
    if any(recoveries.has_a_bad_device(answer.status, member.name) for member in crew):
        return answer  # it is replaced first
    if recoveries.is_inspected(answer.status, gang.now):
        return replace(answer, look_again_seconds=INSPECT_SECONDS)
    known = None if entry is None else recoveries.of_formation(answer.status, entry.number)
    if known is not None and known.failure_class == FailureClass.INFRASTRUCTURE and entry is not None and entry.over_at is not None:
        trouble = diagnosis.trouble
        if trouble is not None and trouble.is_victim and gang.now - entry.over_at < timedelta(seconds=BETTER_EVIDENCE_SECONDS):
            return replace(answer, look_again_seconds=BETTER_EVIDENCE_SECONDS)
    return _start(gang, diagnosis, answer, crew)


def _saver_of_the_last_state(gang: Gang, entry: FormationEntry, crew: tuple[Member, ...]) -> Member | None:
    """Nobody who goes on has the newest state in memory: the member that leaves with it commits it before the next one starts."""
    if {member.serial for member in crew} & set(entry.serials):
        return None
    known = resume_point(gang, crew).state
    leaving = (member for member in gang.crew if member.is_leaving and member.is_connected)
    holders = [member for member in leaving if member.newest_held is not None and newest_state(member.newest_held, known) != known]
    return next(iter(holders), None)


def _is_worth_a_change(gang: Gang, entry: FormationEntry, crew: tuple[Member, ...]) -> bool:
    """A running formation is left for a whole gang or for a larger one, never for a smaller one."""
    serials = {member.serial for member in crew}
    return serials != set(entry.serials) and (len(crew) == gang.num_wanted or serials > set(entry.serials))


def _start(gang: Gang, diagnosis: Diagnosis, answer: FormationAnswer, crew: tuple[Member, ...]) -> FormationAnswer:
    before, status, remedy = answer.status.formation, answer.status, diagnosis.remedy
    if before is not None and not before.is_over:
        status, remedy = _hand_over(gang, status, before)
    if before is not None:
        status = recoveries.note_order(status, before, crew, gang.now)
    pinned = _pinned_after(gang, status, crew)
    if remedy is not None:
        pinned = changed(pinned, overrides=remedy.overrides)
        status = changed(status, restarts=remedy.restarts)
    resume, number = resume_point(gang, crew), next_number(gang)
    first = crew[0].session
    assert first is not None
    entry = FormationEntry(
        number=number,
        serials=tuple(member.serial for member in crew),
        uids=tuple(member.uid or "" for member in crew),
        master_port=first.port,
        resume=resume.state,
        resume_serial=None if resume.holder is None else resume.holder.serial,
        ordered_at=gang.now,
        furthest_step=max(gang.reached_step, 0 if before is None else before.furthest_step),
    )
    status = changed(status, formation=entry, last_formation=number, pinned=pinned, failed_starts=MemberFailures())
    where = "" if resume.state is None else f", from step {resume.state.step}"
    names = ", ".join(member.name for member in crew[:4]) + ("" if len(crew) <= 4 else f" and {len(crew) - 4} more")
    event = Event(type="Normal", reason="FormationStarted", message=f"formation {number} of {names}{where}")
    return replace(answer, status=status, why=f"formation {number} begins", events=(*answer.events, event))


def _hand_over(gang: Gang, status: JobStatus, before: FormationEntry) -> tuple[JobStatus, Remedy | None]:
    """Make before break: the formation ends because the next one takes over. One that was asked to grow or to shrink is no recovery."""
    over = changed(before, is_over=True, over_at=gang.now)
    status = changed(status, formation=over)
    left = next((member for member in gang.crew if member.serial not in gang.serials and (member.is_leaving or member.is_ended)), None)
    if left is None:
        return status, None
    message = f"{left.name} leaves; its replacement was ready first"
    trouble = Trouble(failure_class=FailureClass.DISRUPTED, kind=FailureKind.LOSS, message=message, member=left.name)
    return recoveries.begin(status, gang, trouble, detect_seconds=0.0), remedy_for(gang, trouble)


def _pinned_after(gang: Gang, status: JobStatus, crew: tuple[Member, ...]) -> Pinned:
    """The first ready members pin the digests of model and data for the job's life."""
    pinned = status.pinned
    assert pinned is not None, "a formation of a job that was not admitted"
    if pinned.inputs is not None:
        return pinned
    first = min(crew, key=lambda member: member.serial).session
    found = None if first is None else first.run.inputs
    return changed(pinned, inputs=None if found is None else PinnedInputs.of(found))


def _event_of(trouble: Trouble) -> tuple[Event, ...]:
    if trouble.failure_class is FailureClass.DISRUPTED:
        return ()  # the members' rules tell of a lost member
    return (Event(type="Warning", reason="WorkerFailed", message=f"{trouble.failure_class}: {trouble.message}"),)


FORMATION_RULES = (
    note_the_first_step,
    forgive_crashes_before_progress,
    stop_a_formation_that_lost_a_member,
    start_the_next_formation_when_the_gang_is_ready,
)
