"""Faults of the store between agent and S3: whatever it does, the adapter has the bytes of the undisturbed run.

Numbers in names are those of docs/faults.md.
"""

import asyncio
from random import Random

import pytest
from tests.agent.object_stores import an_s3_store
from tests.builders.machine import HANG_SECONDS
from tests.faults.lives import NUM_STEPS, leave, lost_steps, reach
from tests.faults.s3_lives import Pauses, assert_undisturbed, checkpointed, reach_checkpointed, reasons, saver_of, state_of
from tests.faults.store_proxy import Meddling

from finetune_operator.local.proc import processes_in

MIDDLE = NUM_STEPS // 2
LONGEST_PAUSE_SECONDS = 3.0  # less than one attempt at a store that does not answer


async def kill_all(run) -> None:
    """kill -9 of all members; what replaces them has to import torch before it reads the store."""
    killed = run.members
    for member in killed:
        run.kill_member(member)
    await run.wait_until("their end", lambda _run: not any(processes_in(member.folder) for member in killed), deadline_seconds=HANG_SECONDS)


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def zero(data: bytes) -> bytes:
    return bytes(len(data))


def lose(data: bytes) -> None:
    return None


@pytest.mark.fault(19)
@pytest.mark.parametrize("harm", [flip, cut, zero, lose], ids=lambda harm: harm.__name__)
@pytest.mark.parametrize("which", ["state", "manifest"])
async def test_19_the_newest_commit_in_s3_is_spoiled(which, harm, store, undisturbed, inputs, figures):
    async def newest_is_spoiled_and_all_are_killed(run):
        await reach(run, MIDDLE)
        await run.wait_until("two commits", lambda _run: len(store.manifests()) >= 2, deadline_seconds=HANG_SECONDS)
        await kill_all(run)
        key = store.manifests()[-1] if which == "manifest" else state_of(store.manifests()[-1])
        store.put(key, harm(store.get(key)))

    life = await store.live(store.document(inputs), newest_is_spoiled_and_all_are_killed)
    assert_undisturbed(life, undisturbed)
    # Without its manifest it is no commit: nothing is there to be skipped.
    assert ("CommitSkipped" in reasons(life)) == ((which, harm) != ("manifest", lose)), life.events
    recovery = life.status.recoveries[0]
    assert recovery.resumed_step > 0
    figures.tell(seconds=recovery.total_seconds, lost_steps=lost_steps(life.status), same_bytes=True)


def some_of(share: float, seed: int = 21):
    """Refuse this share of all requests, with 500 and 503 in turn."""
    random = Random(seed)

    def meddle(_request) -> Meddling:
        refusal = random.choice([(500, "InternalError"), (503, "SlowDown")])
        return Meddling(refusal=refusal if random.random() < share else None)

    return meddle


@pytest.mark.fault(21)
@pytest.mark.parametrize("percent", [1, 10])
async def test_21_some_requests_are_answered_500_or_503(percent, store, undisturbed, inputs, figures):
    pauses = Pauses()

    async def disturb(run):
        store.proxy.meddle = some_of(percent / 100)
        await reach(run, 2)
        await pauses.watch(run)

    life = await store.live(store.document(inputs), disturb)
    assert_never_paused(life, undisturbed, pauses, figures)


@pytest.mark.fault(21)
async def test_21_every_request_is_answered_503_for_a_while(store, undisturbed, inputs, figures):
    pauses, lag = Pauses(), 0

    async def disturb(run):
        nonlocal lag
        await reach(run, 10)
        await run.wait_until("a commit", lambda _run: store.manifests(), deadline_seconds=HANG_SECONDS)
        store.proxy.meddle = some_of(1.0)
        watching = asyncio.create_task(pauses.watch(run))
        message = await reach_checkpointed(run, "False", "StorageUnavailable")
        assert "training goes on" in message
        assert "answered" in message
        await watching
        lag = NUM_STEPS - store.newest_step()
        store.proxy.meddle = lambda _request: Meddling()

    life = await store.live(store.document(inputs), disturb)
    assert_undisturbed(life, undisturbed)
    assert lag > 10
    assert pauses.longest < LONGEST_PAUSE_SECONDS
    assert [reason for reason in reasons(life) if reason.startswith("Storage")] == ["StorageUnavailable", "StorageUsable"]
    figures.tell(seconds=pauses.longest, lost_steps=0, same_bytes=True)


@pytest.mark.fault(21)
async def test_21_the_store_is_away_for_a_minute_and_the_adapter_waits_for_it(store, undisturbed, inputs, figures):
    pauses = Pauses()

    async def disturb(run):
        await reach(run, MIDDLE)
        await store.proxy.shut()
        back_at = asyncio.get_running_loop().time() + 60
        watching = asyncio.create_task(pauses.watch(run))
        await reach_checkpointed(run, "False", "StorageUnavailable")
        await watching
        await asyncio.sleep(back_at - asyncio.get_running_loop().time())
        assert not run.status.is_ended
        await store.proxy.open()

    life = await store.live(store.document(inputs), disturb)
    assert_never_paused(life, undisturbed, pauses, figures)


@pytest.mark.fault(21)
async def test_21_a_resume_waits_until_the_store_is_back(store, undisturbed, inputs, figures):
    committed = 0

    async def disturb(run):
        nonlocal committed
        await reach(run, MIDDLE)
        await run.wait_until("a commit", lambda _run: store.manifests(), deadline_seconds=HANG_SECONDS)
        await store.proxy.shut()
        committed = store.newest_step()
        await kill_all(run)
        await run.wait_until(
            "its replacement", lambda run: run.status.last_formation == 1 and len(run.members) == 2, deadline_seconds=HANG_SECONDS
        )
        await asyncio.sleep(15)
        assert run.status.phase in {"Recovering", "Preparing", "Starting"}, run.status.phase
        await store.proxy.open()

    life = await store.live(store.document(inputs), disturb)
    assert_undisturbed(life, undisturbed)
    assert life.status.recoveries[0].resumed_step == committed > 0
    figures.tell(seconds=None, lost_steps=lost_steps(life.status), same_bytes=True)


@pytest.mark.fault(22)
async def test_22_a_slow_store_gets_fewer_commits_and_delays_no_step(store, undisturbed, inputs, figures):
    pauses, slow = Pauses(), Meddling(bytes_per_second=1_000_000)

    async def disturb(run):
        size = await run.wait_until("a commit", lambda _run: store.size_of_a_state(), deadline_seconds=HANG_SECONDS)
        slow_enough = Meddling(bytes_per_second=size / 3)  # 3 s for a state, as for one of 3 MB at 1 MB/s
        store.proxy.meddle = lambda request: slow_enough if request.is_state else slow
        await pauses.watch(run)

    life = await store.live(store.document(inputs), disturb)
    assert_undisturbed(life, undisturbed)
    assert pauses.longest < LONGEST_PAUSE_SECONDS
    assert "StorageUnavailable" not in reasons(life)
    figures.tell(seconds=pauses.longest, lost_steps=0, same_bytes=True)


async def test_22_an_upload_at_1_mb_a_second_outlives_every_timeout_of_a_request(store):
    store.proxy.meddle = lambda _request: Meddling(bytes_per_second=1_000_000)
    slow = an_s3_store(f"http://127.0.0.1:{store.proxy.port}", store.credentials, bucket=store.bucket, patience_seconds=0)
    await asyncio.to_thread(slow.put, "state.bin", bytes(12_000_000))
    assert len(store.get("state.bin")) == 12_000_000


@pytest.mark.fault(22)
async def test_22_connections_are_reset_in_mid_upload_and_mid_download(store, undisturbed, inputs, figures):
    random = Random(22)

    def meddle(request) -> Meddling:
        is_hit = (request.is_state or request.method == "GET") and random.random() < 0.4
        return Meddling(resets_at=random.randrange(20_000) if is_hit else None)

    async def disturb(run):
        await reach(run, 5)
        store.proxy.meddle = meddle
        await reach(run, MIDDLE)
        await run.wait_until("a commit", lambda _run: store.manifests(), deadline_seconds=HANG_SECONDS)
        await kill_all(run)

    life = await store.live(store.document(inputs), disturb)
    assert_undisturbed(life, undisturbed)
    assert life.status.recoveries[0].resumed_step > 0
    assert store.check_commits() > 0
    figures.tell(seconds=life.status.recoveries[0].total_seconds, lost_steps=lost_steps(life.status), same_bytes=True)


@pytest.mark.fault(22)
async def test_22_a_store_that_never_answers_is_said_and_a_leaving_member_says_what_may_be_lost(store, undisturbed, inputs, figures):
    async def disturb(run):
        await reach(run, 10)
        store.proxy.meddle = lambda _request: Meddling(never_answers=True)
        await reach_checkpointed(run, "False", "StorageUnavailable")
        leave(saver_of(run))
        await run.wait_until(
            "its warning", lambda run: "CommitLate" in [event.reason for event in run.events], deadline_seconds=HANG_SECONDS
        )
        store.proxy.meddle = lambda _request: Meddling()

    document = store.document(inputs)
    document["spec"]["terminationGracePeriodSeconds"] = 10
    life = await store.live(document, disturb)
    assert_undisturbed(life, undisturbed)
    assert lost_steps(life.status) <= 1, life.status.recoveries  # the other member holds the state
    assert any(event.startswith("CommitLate: step") and "could not be committed before this member ended" in event for event in life.events)
    figures.tell(seconds=None, lost_steps=lost_steps(life.status), same_bytes=True)


def only_for(key_id: str, code: str):
    """A store that knows one access key."""

    def meddle(request) -> Meddling:
        return Meddling(refusal=None if f"Credential={key_id}/" in request.headers.get("authorization", "") else (403, code))

    return meddle


@pytest.mark.fault(23)
@pytest.mark.parametrize(
    ("code", "words"),
    [("InvalidAccessKeyId", "check AWS_ACCESS_KEY_ID"), ("ExpiredToken", "have expired"), ("AccessDenied", "access denied")],
)
async def test_23_refused_credentials_are_said_and_rotated_ones_are_taken(code, words, store, undisturbed, inputs, figures):
    pauses = Pauses()

    async def disturb(run):
        await reach(run, 10)
        await run.wait_until("a commit", lambda _run: store.manifests(), deadline_seconds=HANG_SECONDS)
        store.proxy.meddle = only_for("rotated", code)
        watching = asyncio.create_task(pauses.watch(run))
        assert words in await reach_checkpointed(run, "False", "StorageRefused")
        before = store.newest_step()
        await reach(run, run.step + 5)
        (store.credentials / "AWS_ACCESS_KEY_ID").write_text("rotated\n")
        await reach_checkpointed(run, "True", "Committed")
        assert store.newest_step() > before
        await watching

    life = await store.live(store.document(inputs), disturb)
    assert_undisturbed(life, undisturbed)
    assert life.status.last_formation == 1
    assert pauses.longest < LONGEST_PAUSE_SECONDS
    assert [reason for reason in reasons(life) if reason.startswith("Storage")] == ["StorageRefused", "StorageUsable"]
    figures.tell(seconds=pauses.longest, lost_steps=0, same_bytes=True)


@pytest.mark.fault(24)
async def test_24_a_store_that_ignores_conditions_is_said_at_the_start_and_two_formations_stay_apart(store, undisturbed, inputs, figures):
    store.proxy.meddle = lambda _request: Meddling(strips=frozenset({"if-none-match"}))

    async def disturb(run):
        await run.wait_until("formation 1", lambda run: run.status.last_formation == 1, deadline_seconds=HANG_SECONDS)
        assert "ConditionalWritesIgnored" in [event.reason for event in run.events]
        await reach(run, MIDDLE)
        await run.wait_until("a commit", lambda _run: store.manifests(), deadline_seconds=HANG_SECONDS)
        run.kill_member(saver_of(run))
        await run.wait_until(
            "formation 2", lambda run: run.status.last_formation == 2 and checkpointed(run)[0] == "True", deadline_seconds=HANG_SECONDS
        )

    life = await store.live(store.document(inputs), disturb)
    assert_undisturbed(life, undisturbed)
    assert {request.target.rpartition("/")[2][:7] for request in store.proxy.requests if request.is_manifest} == {"f000001", "f000002"}
    assert store.check_commits() > 0
    assert not any("if-none-match" in request.headers for request in store.proxy.requests if request.is_state)
    figures.tell(seconds=life.status.recoveries[0].total_seconds, lost_steps=lost_steps(life.status), same_bytes=True)


def assert_never_paused(life, undisturbed, pauses, figures):
    """One formation from the first step to the last, and no step waited for the store."""
    assert_undisturbed(life, undisturbed)
    assert life.status.last_formation == 1
    assert pauses.longest < LONGEST_PAUSE_SECONDS
    figures.tell(seconds=pauses.longest, lost_steps=0, same_bytes=True)
