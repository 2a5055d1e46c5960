"""A gang is made in few round trips, costs one request while it is refused, and what was made is noted whatever else failed."""

import asyncio

import pytest
from tests.builders.observed import a_job
from tests.stories.fake_pods import FakePods
from tests.stories.world import FakeClock

from finetune_operator.decide.answers.decision import DeleteMember
from finetune_operator.reconcile.creation import MOST_AT_ONCE, create_members, delete_members
from finetune_operator.reconcile.notes import JobNotes


class SlowPods(FakePods):
    """Every request takes one turn of the loop; `rounds` are the serials that were asked for at once."""

    def __init__(self) -> None:
        super().__init__(FakeClock())
        self.rounds: list[list[int]] = []
        self.fails: set[int] = set()
        self._open: list[int] = []

    async def _answer(self, serial: int) -> None:
        if not self._open:
            self.rounds.append(self._open)
        self._open.append(serial)
        await asyncio.sleep(0)
        self._open = []

    async def create(self, job, serial, decoration):
        await self._answer(serial)
        if serial in self.fails:
            raise TimeoutError("POST timed out")
        return await super().create(job, serial, decoration)

    async def delete(self, job, uid, name, grace_seconds):
        await self._answer(int(name.rpartition("-")[2]))
        await super().delete(job, uid, name, grace_seconds)


async def test_a_gang_is_made_in_batches_that_double() -> None:
    pods, notes = SlowPods(), JobNotes()
    assert not await create_members(pods, a_job(), tuple(range(1, 41)), notes)
    assert [len(batch) for batch in pods.rounds] == [1, 2, 4, 8, MOST_AT_ONCE, 9]
    assert sorted(notes.created) == list(range(1, 41))


async def test_a_refused_gang_costs_one_request() -> None:
    pods, notes = SlowPods(), JobNotes()
    pods.quota = 0
    assert not await create_members(pods, a_job(), tuple(range(1, 41)), notes)
    assert pods.rounds == [[1]]
    assert notes.refusal is not None
    assert not notes.created


async def test_a_quota_that_is_reached_within_a_gang_ends_the_asking() -> None:
    pods, notes = SlowPods(), JobNotes()
    pods.quota = 5
    assert not await create_members(pods, a_job(), tuple(range(1, 41)), notes)
    assert sum(len(batch) for batch in pods.rounds) == 7
    assert sorted(notes.created) == [1, 2, 3, 4, 5]


async def test_what_was_made_beside_a_failure_is_noted_before_it_is_raised() -> None:
    pods, notes = SlowPods(), JobNotes()
    pods.fails = {2}
    with pytest.raises(TimeoutError):
        await create_members(pods, a_job(), (1, 2, 3, 4), notes)
    assert sorted(notes.created) == [1, 3]


async def test_nothing_to_make_is_done_at_once() -> None:
    assert await create_members(SlowPods(), a_job(), (), JobNotes())


async def test_a_gang_is_deleted_in_few_round_trips() -> None:
    pods, job = SlowPods(), a_job()
    await create_members(pods, job, tuple(range(1, 21)), JobNotes())
    pods.rounds.clear()
    doomed = tuple(DeleteMember(uid=uid, name=pod.view.name) for uid, pod in pods.pods.items())
    await delete_members(pods, job, doomed)
    assert [len(batch) for batch in pods.rounds] == [MOST_AT_ONCE, 4]
    assert not pods.pods
