"""Members of a gang made and deleted in few round trips; a gang that is refused costs one request."""

import asyncio
import logging
from collections.abc import Iterable

from finetune_operator.api.job import FineTuneJob
from finetune_operator.decide.answers.decision import DeleteMember
from finetune_operator.decide.facts.policy import NATIVE, PlacementPolicy
from finetune_operator.reconcile.notes import JobNotes
from finetune_operator.reconcile.ports import Created, Members, NameTaken, PodInvalid, Refused

log = logging.getLogger(__name__)
MOST_AT_ONCE = 16


async def create_members(
    members: Members, job: FineTuneJob, serials: tuple[int, ...], notes: JobNotes, policy: PlacementPolicy = NATIVE
) -> bool:
    """Asked for in batches that double, as ReplicaSets are; the rest of a refused gang is not. False: decide again at once.

    Raises what a creation raised, once its whole batch is noted.
    """
    left, size, is_done = serials, 1, True
    while left and notes.refusal is None:
        batch, left, size = left[:size], left[size:], min(2 * size, MOST_AT_ONCE)
        creating = (members.create(job, serial, policy.decoration_of(job, serial)) for serial in batch)
        answers = await asyncio.gather(*creating, return_exceptions=True)
        for serial, answer in zip(batch, answers, strict=True):
            if not isinstance(answer, BaseException):
                is_done &= not _note(notes, job, serial, answer)
        _raise_first(answers)
    return is_done and notes.refusal is None


async def delete_members(members: Members, job: FineTuneJob, doomed: tuple[DeleteMember, ...]) -> None:
    """Raises what a deletion raised, once its whole batch was asked for."""
    for start in range(0, len(doomed), MOST_AT_ONCE):
        batch = doomed[start : start + MOST_AT_ONCE]
        deleting = (members.delete(job, member.uid, member.name, member.grace_seconds) for member in batch)
        _raise_first(await asyncio.gather(*deleting, return_exceptions=True))


def _raise_first(answers: Iterable[object]) -> None:
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer


def _note(notes: JobNotes, job: FineTuneJob, serial: int, answer: Created | NameTaken | Refused | PodInvalid) -> bool:
    """Whether the status has something new to show at once."""
    fields = {"namespace": job.metadata.namespace, "job": job.metadata.name, "member": job.member_name(serial)}
    match answer:
        case Created(uid=member_uid):
            notes.created[serial] = member_uid
            log.info("member created", extra=fields)
        case NameTaken():
            notes.taken_serials |= {serial}
        case Refused() | PodInvalid():
            log.info("member refused: %s", answer.message, extra=fields)
            notes.refusal = answer.message
            if isinstance(answer, PodInvalid):
                notes.invalid_pod = answer.message
    return isinstance(answer, Created | NameTaken)
