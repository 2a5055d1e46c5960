"""The ends of a job: deleted, ended before, finished, hopeless, invalid. Rules of the job chain; the first opinion wins."""

from dataclasses import replace
from datetime import timedelta

from finetune_contract.failures import FailureClass, FailureKind
from finetune_contract.orders import Exit
from finetune_contract.values import changed
from finetune_operator.api.status import OutputEntry
from finetune_operator.decide.answers.answer import Answer, Phase, Verdict, delete_pod
from finetune_operator.decide.answers.decision import Event, SendOrder
from finetune_operator.decide.facts.gang import Gang, Member
from finetune_operator.decide.facts.observed import PodPhase
from finetune_operator.decide.recovering.diagnosis import Diagnosis
from finetune_operator.decide.recovering.remedy import remedy_outside
from finetune_operator.decide.recovering.trouble import Trouble
from finetune_operator.decide.reporting.output import published_output
from finetune_operator.times import BETTER_EVIDENCE_SECONDS, EXIT_SECONDS


def keep_an_ended_job_ended(gang: Gang, diagnosis: Diagnosis) -> Answer | None:
    """Its members are told to exit; what remains is deleted; ended pods stay for their logs until the TTL."""
    status = gang.status
    if not status.is_ended:
        return None
    kind = "Complete" if status.is_true("Complete") else "Failed"
    told = status.condition(kind)
    ended_at = status.completion_time or gang.now
    age = (gang.now - ended_at).total_seconds()
    ttl = gang.spec.ttl_seconds
    is_expired = ttl is not None and age >= ttl
    doomed = [member.pod for member in gang.everyone if member.pod is not None and (is_expired or _is_left_over(member, age))]
    waits = [] if not _live(gang) or age >= EXIT_SECONDS else [EXIT_SECONDS - age]
    waits += [ttl - age] if ttl is not None and not is_expired and gang.observed.pods else []
    return Answer(
        status=changed(status, members=()),
        phase=Phase(kind),
        reason=told.reason if told is not None else kind,
        message=told.message if told is not None else "",
        delete=tuple(delete_pod(pod) for pod in doomed if not pod.is_deleting),
        orders=exits(gang, f"the job is {kind.lower()}"),
        look_again_seconds=min(waits, default=None),
    )


def complete_a_finished_job(gang: Gang, diagnosis: Diagnosis) -> Answer | None:
    """An adapter that is complete in the store ends the job, whatever happens to its members now."""
    published = published_output(gang)
    if published is None:
        return None
    run, pinned = gang.spec.run, gang.status.pinned
    output = OutputEntry(
        uri=published.uri,
        sha256=published.sha256,
        num_bytes=published.num_bytes,
        base_model=run.model_uri,
        base_revision=None if pinned is None or pinned.inputs is None else pinned.inputs.model_revision,
        rank=run.adapter_rank,
    )
    found = "was there already" if published.already_present else f"was published after step {published.step}"
    message = f"the adapter {found}: {published.uri}"
    status = changed(gang.status, output=output, completion_time=gang.now, members=())
    return Answer(
        status=status,
        phase=Phase.COMPLETE,
        reason="Completed",
        message=message,
        verdict=Verdict(kind="Complete", reason="Completed", message=message),
        orders=exits(gang, "the job is complete"),
        events=(Event(type="Normal", reason="Completed", message=message),),
        look_again_seconds=EXIT_SECONDS,
    )


def fail_an_invalid_job(gang: Gang, diagnosis: Diagnosis) -> Answer | None:
    """What the schema cannot say is checked before anything is placed."""
    if gang.status.pinned is not None or not gang.observed.spec_errors:
        return None
    return fail(gang, reason="InvalidSpec", message="; ".join(gang.observed.spec_errors))


def fail_a_job_whose_pod_is_invalid(gang: Gang, diagnosis: Diagnosis) -> Answer | None:
    """What was made from it will never be a pod. While a formation trains, it is left to train: it may need no other pod."""
    words = gang.observed.invalid_pod
    if words is None or gang.active is not None:
        return None
    return fail(gang, reason="InvalidPod", message=f"the API server refuses the pod that is made from this job: {words}")


def end_an_unretryable_failure(gang: Gang, diagnosis: Diagnosis) -> Answer | None:
    """An error of the user at once; the others when their remedy is used up."""
    if not gang.observed.is_reconnect_over:
        return None
    outside = _other_inputs(gang) or _crash_outside(gang, diagnosis)
    found = [] if outside is None else [(outside, remedy_outside(gang, outside))]
    if diagnosis.cause is not None and diagnosis.remedy is not None and not _may_become_a_loss(gang, diagnosis):
        found.append((diagnosis.cause, diagnosis.remedy))
    for trouble, remedy in found:
        if remedy.hopeless is not None:
            answer = fail(gang, reason=trouble.failure_class.value, message=remedy.hopeless)
            return replace(answer, status=changed(answer.status, restarts=remedy.restarts))
    return None


def _may_become_a_loss(gang: Gang, diagnosis: Diagnosis) -> bool:
    """A lost member ends no job, and what only victims saw may turn out to be one."""
    entry, live = gang.status.formation, diagnosis.trouble
    if entry is None or live is None:
        return False
    is_fresh = entry.over_at is None or gang.now - entry.over_at < timedelta(seconds=BETTER_EVIDENCE_SECONDS)
    return live.failure_class is FailureClass.DISRUPTED or (live.is_victim and is_fresh)


def _crash_outside(gang: Gang, diagnosis: Diagnosis) -> Trouble | None:
    """A member could not prepare or ended before it took part."""
    crashed = ((member.serial, diagnosis.crashed.get(member.serial)) for member in gang.members)
    found = ((serial, trouble) for serial, trouble in crashed if trouble is not None)
    said = (trouble for serial, trouble in found if trouble.failure_class is FailureClass.USER_ERROR or serial not in diagnosis.silent)
    return next(said, None)


def _other_inputs(gang: Gang) -> Trouble | None:
    """A member that found other bytes than the first ones fails by name; it must never train."""
    pinned = gang.status.pinned.inputs if gang.status.pinned is not None else None
    ready = (member for member in gang.members if member.is_ready)
    found = [(member, member.run.inputs) for member in ready if member.run is not None and member.run.inputs is not None]
    if not found:
        return None
    first = pinned.digests() if pinned is not None else found[0][1]
    other, inputs = next(((member, inputs) for member, inputs in found if inputs != first), (None, first))
    if other is None:
        return None
    is_model = (first.model, first.model_revision) != (inputs.model, inputs.model_revision)
    field, uri = ("spec.model.uri", gang.spec.run.model_uri) if is_model else ("spec.dataset.uri", gang.spec.run.dataset_uri)
    what = f"{other.name} found other bytes at {uri} than the members before it"
    message = f"{field}: {what}; put the old bytes back, or make a new job from the new ones"
    return Trouble(failure_class=FailureClass.USER_ERROR, message=message, member=other.name, kind=FailureKind.CAUSE)


def _live(gang: Gang) -> tuple[Member, ...]:
    return tuple(member for member in gang.everyone if member.pod is not None and member.pod.holds_room)


def _is_left_over(member: Member, age_seconds: float) -> bool:
    """It never said hello and never will be needed, or it had its time to exit."""
    if member.pod is None or not member.pod.holds_room:
        return False
    return age_seconds >= EXIT_SECONDS or (member.session is None and member.pod.phase is PodPhase.PENDING)


def fail(gang: Gang, *, reason: str, message: str) -> Answer:
    message = message[:2000]
    status = changed(gang.status, completion_time=gang.now, members=())
    return Answer(
        status=status,
        phase=Phase.FAILED,
        reason=reason,
        message=message,
        verdict=Verdict(kind="Failed", reason=reason, message=message),
        orders=exits(gang, "the job has failed"),
        events=(Event(type="Warning", reason="Failed", message=f"{reason}: {message}"[:1000]),),
        look_again_seconds=EXIT_SECONDS,
    )


def exits(gang: Gang, why: str) -> tuple[SendOrder, ...]:
    order = Exit(term=gang.observed.term, why=why)
    return tuple(
        SendOrder(member_uid=member.uid, order=order) for member in gang.everyone if member.is_connected and member.uid is not None
    )
