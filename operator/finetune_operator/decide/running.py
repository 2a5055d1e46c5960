"""A job that runs: admission is noted, formation and members answer, and the phase says in one line where it stands."""

from datetime import timedelta

from finetune_contract.config import CONTRACT_VERSION, OLDEST_CONTRACT_VERSION, speak_together
from finetune_contract.messages import MemberPhase
from finetune_contract.plurals import counted, verb
from finetune_operator.api.status import JobStatus
from finetune_operator.decide.answers.answer import Answer, Phase, sentence_of, soonest
from finetune_operator.decide.facts.gang import Gang, Member
from finetune_operator.decide.facts.kueue import CAPTURED_BY_KUEUE, how_to_keep_kueue_away
from finetune_operator.decide.facts.line import is_unschedulable
from finetune_operator.decide.facts.observed import PodPhase
from finetune_operator.decide.placing.admission import admit, seconds_until_timeout, why_no_room
from finetune_operator.decide.placing.members import keep_members
from finetune_operator.decide.placing.spares import fill_places_from_spares, keep_spares
from finetune_operator.decide.recovering import recoveries
from finetune_operator.decide.recovering.diagnosis import Diagnosis
from finetune_operator.decide.recovering.formation import form
from finetune_operator.decide.recovering.orders import orders_of_formation, probes
from finetune_operator.decide.recovering.starting import has_no_container_yet
from finetune_operator.decide.recovering.trouble import seconds_until_unreachable
from finetune_operator.times import PROBE_SECONDS, SILENT_SECONDS, WATCH_SECONDS

_PHASE_OF = {MemberPhase.EVALUATING: Phase.EVALUATING, MemberPhase.EXPORTING: Phase.EXPORTING}


def run(gang: Gang, diagnosis: Diagnosis) -> Answer:
    """The answer for a job that may have members."""
    gang, filled = fill_places_from_spares(gang, diagnosis)
    status, admitted = admit(gang)
    formed = form(gang, diagnosis, status)
    kept = keep_spares(gang, diagnosis, keep_members(gang, diagnosis, formed.status))
    asked = probes(gang)
    phase, reason, message = where_it_stands(gang, kept.status)
    return Answer(
        status=kept.status,
        phase=phase,
        reason=reason,
        message=message,
        create=kept.create,
        delete=kept.delete,
        orders=orders_of_formation(gang, kept.status, formed.why) + asked,
        events=admitted + filled + kept.events + formed.events,
        look_again_seconds=soonest(
            formed.look_again_seconds,
            kept.look_again_seconds,
            seconds_until_timeout(gang),
            seconds_until_unreachable(gang),
            PROBE_SECONDS if asked or any(member.is_leaving for member in gang.crew) else WATCH_SECONDS,
        ),
    )


def where_it_stands(gang: Gang, status: JobStatus) -> tuple[Phase, str, str]:
    """Phase, reason and message; the message names what is waited for.

    No number in it moves by itself but that of rows in preparation, which agents tell every 15 s.
    """
    entry = status.formation
    if entry is None or (entry.is_over and recoveries.of_formation(status, entry.number) is None):
        return (Phase.PREPARING, *_what_is_waited_for(gang, status))
    if entry.is_over:
        reason, message = _what_is_waited_for(gang, status)
        return Phase.RECOVERING, reason, f"{status.recoveries[-1].reason}; {message}"[:1024]
    nodes = f"formation {entry.number} ({counted(len(entry.serials), 'member')})"
    if entry.first_step_at is None:
        pending = status.recoveries[-1] if status.recoveries else None
        if pending is not None and pending.total_seconds is None:
            return Phase.RECOVERING, "Starting", f"{pending.reason}; {nodes} is starting"[:1024]
        return Phase.STARTING, "Starting", f"{nodes} is starting{_rows_made(gang)}"
    run = gang.crew[0].run if gang.crew and gang.active is not None and gang.active.number == entry.number else None
    phase = Phase.TRAINING if run is None else _PHASE_OF.get(run.phase, Phase.TRAINING)
    blocked = _what_blocks(gang, status)
    if blocked is not None:
        return phase, blocked[0], f"{nodes} is {phase.value.lower()}; {blocked[1]}"
    return phase, phase.value, f"{nodes} is {phase.value.lower()}"


def _rows_made(gang: Gang) -> str:
    """Of the member that has most before it: all wait for that one."""
    told = [member.run for member in gang.crew if member.run is not None and member.run.rows_done is not None]
    behind = min(told, key=lambda run: run.rows_done or 0, default=None)
    if behind is None:
        return ""
    rows_done = behind.rows_done or 0
    rows = counted(rows_done, "row") if behind.rows_total is None else f"{rows_done} of about {counted(behind.rows_total, 'row')}"
    return f": tokenised {rows}"


def _what_is_waited_for(gang: Gang, status: JobStatus) -> tuple[str, str]:
    blocked = _what_blocks(gang, status)
    if blocked is not None:
        return blocked
    missing = tuple(member for member in gang.members if not member.is_ready)
    if not gang.members or any(member.pod is None for member in missing):
        return "Creating", f"creating {counted(len(status.places), 'member')}"
    if missing:
        return "Preparing", f"{sentence_of(missing)} {_are(missing)} fetching model and data"
    return "Starting", "the gang is ready"


def _what_blocks(gang: Gang, status: JobStatus) -> tuple[str, str] | None:
    """What somebody may have to do something about."""
    pods = [member.pod for member in gang.members if member.pod is not None]
    if status.placement.why is not None:
        return "Refused", f"the cluster refused a member: {status.placement.why}"
    if any(pod.is_captured_by_kueue for pod in pods):
        return CAPTURED_BY_KUEUE, how_to_keep_kueue_away(gang.job.metadata.namespace)
    if any(is_unschedulable(pod) for pod in pods):
        return "Unschedulable", why_no_room(gang)
    stuck = next((pod for pod in pods if pod.waiting is not None and not pod.is_over), None)
    if stuck is not None:
        return "ContainerWaiting", f"{stuck.name}: {stuck.waiting}"
    bare = tuple(member for member in gang.members if has_no_container_yet(gang, member))
    if bare:
        missing = f", or one of these is missing: {', '.join(gang.spec.mounted)}" if gang.spec.mounted else ""
        advice = f"the image is still being pulled{missing}; see kubectl describe pod {bare[0].name}"
        return "NoContainer", f"{sentence_of(bare)} {verb(len(bare), 'has', 'have')} a node but no container; {advice}"
    if (foreign := next((member for member in gang.members if _speaks_no_common_version(member)), None)) is not None:
        return "VersionSkew", _skew_of(foreign)
    silent = tuple(member for member in gang.members if _is_silent(gang, member))
    if silent:
        advice = "check that pods of this namespace reach the Service finetune-channel and that no NetworkPolicy blocks them"
        return "MembersSilent", f"{sentence_of(silent)} {_are(silent)} running but never connected to the operator; {advice}"
    if status.silent_members.count > 0:
        num_silent = status.silent_members.count
        advice = f"see {verb(num_silent, 'its log', 'their logs')}"
        return "MembersEndSilently", f"{counted(num_silent, 'member')} ended before connecting to the operator; {advice}"
    return None


def _are(members: tuple[Member, ...]) -> str:
    return verb(len(members), "is", "are")


def _speaks_no_common_version(member: Member) -> bool:
    session = member.session
    return session is not None and not speak_together(session.contract_version, session.oldest_contract_version)


def _skew_of(member: Member) -> str:
    """Nothing is failed for it: training goes on as far as both understand each other."""
    session = member.session
    assert session is not None
    theirs = f"contract versions {session.oldest_contract_version} to {session.contract_version}"
    ours = f"{OLDEST_CONTRACT_VERSION} to {CONTRACT_VERSION}"
    return f"{member.name} speaks {theirs}, but this operator speaks {ours}; use a trainer image of this release or of the one before"


def _is_silent(gang: Gang, member: Member) -> bool:
    pod = member.pod
    if pod is None or member.session is not None or pod.phase is not PodPhase.RUNNING or pod.is_deleting:
        return False
    return gang.observed.is_reconnect_over and gang.now - pod.created_at >= timedelta(seconds=SILENT_SECONDS)
