"""What a pass makes of losses and failures: judged once, before any rule speaks. Rules read it, none asks again."""

from collections.abc import Mapping
from dataclasses import dataclass

from finetune_contract.failures import FailureClass, FailureKind
from finetune_operator.api.status import Recovery
from finetune_operator.decide.facts.gang import Gang, Member
from finetune_operator.decide.recovering import recoveries
from finetune_operator.decide.recovering.remedy import Remedy, remedy_for
from finetune_operator.decide.recovering.starting import never_started, why_not_started
from finetune_operator.decide.recovering.trouble import (
    FINISHED_BEFORE,
    Trouble,
    has_finished_before,
    is_silent_end,
    is_unreachable,
    trouble_of,
    trouble_of_ended_pod,
    trouble_outside,
    unprepared,
)


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """`trouble` is what is seen now of why the newest formation ended or has to; `record` is what the status holds of its end.

    `cause` is the one of the two that explains more, and `remedy` what is to be done about it.
    By serial, of members and spares: `lost` says why one has to be replaced; `crashed` is what ended one outside of any formation;
    `silent` are those that ended without a word to anybody.
    """

    trouble: Trouble | None
    record: Recovery | None
    cause: Trouble | None
    remedy: Remedy | None
    lost: Mapping[int, str]
    crashed: Mapping[int, Trouble]
    silent: frozenset[int]


def diagnose(gang: Gang) -> Diagnosis:
    entry, known = gang.status.formation, (*gang.members, *gang.spares)
    trouble = trouble_of(gang)
    record = None if entry is None else recoveries.of_formation(gang.status, entry.number)
    cause = trouble if entry is None or not entry.is_over else _cause(record, trouble)
    lost = {member.serial: _why_lost(gang, member) for member in known}
    crashed = {member.serial: trouble_outside(gang, member) for member in known}
    return Diagnosis(
        trouble=trouble,
        record=record,
        cause=cause,
        remedy=None if cause is None else remedy_for(gang, cause),
        lost={serial: why for serial, why in lost.items() if why is not None},
        crashed={serial: trouble for serial, trouble in crashed.items() if trouble is not None},
        silent=frozenset(member.serial for member in known if is_silent_end(gang, member)),
    )


def _cause(record: Recovery | None, trouble: Trouble | None) -> Trouble | None:
    """Of a formation that is over: better evidence may still come."""
    if record is None:
        return None
    return recoveries.trouble_of_record(record) if trouble is None or not _explains_more(trouble, record) else trouble


def _explains_more(trouble: Trouble, known: Recovery) -> bool:
    """A lost member explains worker crashes and hangs; a cause explains what its victims saw. Nothing else is amended.

    A member that ended by itself stays that: its pod is deleted, by us too, and that says nothing about its end.
    """
    kind = recoveries.kind_of_record(known)
    if trouble.failure_class is FailureClass.DISRUPTED:
        may_follow = known.failure_class in {FailureClass.INFRASTRUCTURE, FailureClass.HANG}
        return may_follow and kind not in {FailureKind.DEVICE, FailureKind.LOSS}
    return kind is FailureKind.VICTIM and not trouble.is_victim


def _why_lost(gang: Gang, member: Member) -> str | None:
    """None for a member that stays."""
    if member.uid is None:
        return "another pod already has its name" if member.serial in gang.observed.taken_serials else None
    if not gang.observed.is_reconnect_over or gang.is_past_training:
        return None
    if member.is_gone:
        return "its pod is gone"
    if member.pod is not None and member.pod.is_over:
        trouble = trouble_of_ended_pod(member, member.pod)
        return "it has ended" if trouble is None else trouble.why
    if member.is_leaving and gang.policy.replaces_before_break:
        return "it was told to end"
    if has_finished_before(gang, member):
        return FINISHED_BEFORE
    if is_unreachable(gang, member):
        return "neither the operator nor any of its peers can reach it"
    if recoveries.has_a_bad_device(gang.status, member.name):
        return f"its device failed in {recoveries.DEVICE_ERRORS} formations in a row"
    if gang.active is not None and never_started(gang, member):
        return why_not_started(gang, member)
    failure = unprepared(member)
    return None if failure is None else f"it could not prepare: {failure.message}"
