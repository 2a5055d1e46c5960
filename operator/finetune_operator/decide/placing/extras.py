"""Extras: pods of an elastic gang beyond nodes.min. Asked for when nobody waits, given back first, never waited for by others."""

from dataclasses import replace

from finetune_contract.values import changed
from finetune_operator.api.status import MemberEntry
from finetune_operator.decide.answers.decision import Event
from finetune_operator.decide.answers.members_answer import MembersAnswer
from finetune_operator.decide.facts.gang import Gang
from finetune_operator.decide.recovering.diagnosis import Diagnosis


def num_asked_for(gang: Gang, placed_serials: frozenset[int], entries: tuple[MemberEntry, ...]) -> int:
    """Places that are listed now: all while there is room for nodes.min and nobody waits, else no more than there are."""
    spec = gang.spec
    num_placed = sum(entry.serial in placed_serials for entry in entries)
    if num_placed >= spec.min_nodes and gang.policy.allows_extras(gang.observed, gang.job, gang.spec):
        return spec.max_nodes
    return min(max(spec.min_nodes, len(entries)), spec.max_nodes)


def give_back_extras_without_room(gang: Gang, diagnosis: Diagnosis, answer: MembersAnswer) -> MembersAnswer:
    """Whatever has no node yet and is not needed for nodes.min goes as soon as somebody waits."""
    if gang.policy.allows_extras(gang.observed, gang.job, gang.spec):
        return answer
    placed = placed_serials(gang)
    entries = sorted(answer.status.places, key=lambda entry: entry.serial)
    without_node = [entry for entry in entries if entry.serial not in placed]
    num_needed = max(gang.spec.min_nodes - (len(entries) - len(without_node)), 0)
    extras = without_node[num_needed:]
    if not extras:
        return answer
    given = {entry.serial for entry in extras}
    names = ", ".join(gang.job.member_name(serial) for serial in sorted(given)[:4]) + (
        f" and {len(given) - 4} more" if len(given) > 4 else ""
    )
    event = Event(type="Normal", reason="ExtraGivenBack", message=f"{names}: another gang waits for room, and this one can train without")
    kept = tuple(entry for entry in answer.status.members if entry.serial not in given)
    return replace(answer, status=changed(answer.status, members=kept), events=(*answer.events, event))


def placed_serials(gang: Gang) -> frozenset[int]:
    return frozenset(member.serial for member in gang.members if member.is_placed and not member.is_ended)
