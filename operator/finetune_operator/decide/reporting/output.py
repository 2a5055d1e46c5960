"""Whose word about the adapter ends a job. A member's image is the user's own: what it says is believed only where it fits."""

import re
from collections.abc import Iterator

from finetune_contract.reports import Output, Warned
from finetune_operator.decide.facts.gang import Gang, Member

MAX_BYTES = 2**53
MAX_STEPS = 2**53
_SHA256 = re.compile(r"[0-9a-f]{64}")


def published_output(gang: Gang) -> Output | None:
    """What node rank 0 of the newest formation published, or what a place of the gang found complete before it took part in any."""
    said = [output for member, formation, output in _said(gang) if _why_refused(gang, member, formation, output) is None]
    return said[0] if said else None


def refused_outputs(gang: Gang) -> tuple[Warned, ...]:
    """Every output that some member claims and that is not believed, in words for the user."""
    found = ((member, _why_refused(gang, member, formation, output)) for member, formation, output in _said(gang))
    return tuple(
        Warned(reason="OutputRefused", message=f"{member.name} says that it published the adapter; {why}") for member, why in found if why
    )


def _said(gang: Gang) -> Iterator[tuple[Member, int, Output]]:
    """Member, formation and output, of those that are connected and of those that ended unwatched."""
    for member in gang.everyone:
        if member.run is not None and member.run.output is not None:
            yield member, member.run.formation, member.run.output
        if member.pod is not None and member.pod.finished is not None:
            yield member, member.pod.finished.formation, member.pod.finished.output


def _why_refused(gang: Gang, member: Member, formation: int, output: Output) -> str | None:
    return _why_not_its_turn(gang, member, formation) or _why_not_ours(gang, output)


def _why_not_its_turn(gang: Gang, member: Member, formation: int) -> str | None:
    newest = gang.status.formation
    crew = tuple(other.uid for other in gang.crew)
    if newest is not None and member.uid in crew:
        if formation != newest.number:
            return f"it reports for formation {formation}, but the newest is formation {newest.number}"
        return None if member.uid == crew[0] else f"only node rank 0 of formation {newest.number} publishes"
    if member.uid not in {place.uid for place in gang.members}:
        return "it has no place in the gang"
    if formation != 0:
        return f"it takes no part in formation {formation}"
    return None if gang.active is None else f"formation {gang.active.number} is still running"


def _why_not_ours(gang: Gang, output: Output) -> str | None:
    if output.uri != gang.spec.run.output_uri:
        return "the place in its report is not spec.output.uri"
    if output.already_present and gang.spec.run.output_if_exists != "Skip":
        return f"it found the adapter of another job, but spec.output.ifExists is {gang.spec.run.output_if_exists}"
    if not _SHA256.fullmatch(output.sha256):
        return "its digest is not a SHA-256 of 64 hexadecimal digits"
    if not 0 < output.num_bytes < MAX_BYTES:
        return f"its size of {output.num_bytes:.3g} bytes is impossible"
    return None if 0 <= output.step < MAX_STEPS else f"its step {output.step:.3g} is impossible"
