"""Faults of one member's own machine: a disk that is full, files that were damaged, a clock that is off. The others never notice.

Numbers in names are those of docs/faults.md. The clock needs a C compiler, the small disk root or namespaces for users.
"""

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.builders.machine import HANG_SECONDS
from tests.faults.lives import LONG, NUM_STEPS, lost_steps, reach
from tests.faults.s3_lives import assert_undisturbed, reach_checkpointed, reasons, saver_of
from tests.faults.store_proxy import Meddling

from finetune_operator.local.members import LocalMembers

MIDDLE = NUM_STEPS // 2
# Python runs it before anything else: the agent and its children see a small file system where their caches, or all their files, are.
SMALL_DISK = """
import ctypes, os
from tests.builders.machine import HANG_SECONDS
if "SMALL_DISK" in os.environ:
    folder, size = os.environ.pop("SMALL_DISK").split(":")
    folder = os.path.join(os.environ["FINETUNE_WORK_DIR"], folder)
    libc, uid = ctypes.CDLL(None), os.getuid()
    assert libc.unshare(0x20000 | (0x10000000 if uid else 0)) == 0
    if uid:
        with open("/proc/self/uid_map", "w") as file:
            file.write(f"{uid} {uid} 1")
    os.makedirs(folder, exist_ok=True)
    assert libc.mount(b"none", b"/", None, 0x44000, None) == 0
    assert libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, f"size={size}".encode()) == 0
"""
# Before libc's own: libfaketime would also change how long sleeps and waits take.
CLOCK = """
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_REALTIME) now->tv_sec += atol(getenv("CLOCK_OFFSET"));
    return failed;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *seconds) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (seconds) *seconds = exact.tv_sec;
    return exact.tv_sec;
}
"""


@pytest.fixture
def change_member(monkeypatch):
    """`change_member(1, NAME="value")`: the environment of the member with this serial."""

    def change(serial: int, **environment: str) -> None:
        healthy = LocalMembers._member_environment

        def changed(self, *arguments, name: str, **rest) -> dict[str, str]:
            return healthy(self, *arguments, name=name, **rest) | (environment if name.endswith(f"-{serial}") else {})

        monkeypatch.setattr(LocalMembers, "_member_environment", changed)

    return change


def put_model(store, inputs) -> dict:
    """The model in S3, so that each member fetches a copy of its own."""
    for path in (inputs / "qwen3").iterdir():
        store.put(f"model/{path.name}", path.read_bytes())
    return {"uri": f"s3://{store.bucket}/model"}


def weights_of(run, member) -> Path:
    return next((member.folder / "work" / "cache").glob("model-*")) / "model.safetensors"


@pytest.mark.fault(26)
async def test_26_a_member_without_room_for_the_model_says_so_and_is_replaced(change_member, store, undisturbed, inputs, tmp_path, figures):
    (tmp_path / "sitecustomize.py").write_text(SMALL_DISK)
    change_member(1, PYTHONPATH=str(tmp_path), SMALL_DISK="cache:100k")
    life = await store.live(store.document(inputs, model=put_model(store, inputs)), lambda run: reach(run, 1))
    assert_undisturbed(life, undisturbed)
    told = [event for event in life.events if "work/cache, is full (No space left on device); give the members more" in event]
    assert told, life.events
    figures.tell(seconds=None, lost_steps=0, same_bytes=True)


def fill(filler: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(bytes(3_000_000))


def make_room(filler: Path) -> None:
    filler.unlink()


@pytest.mark.fault(26)
async def test_26_commits_need_no_disk(change_member, store, undisturbed, inputs, tmp_path, figures):
    (tmp_path / "sitecustomize.py").write_text(SMALL_DISK)
    change_member(1, PYTHONPATH=str(tmp_path), SMALL_DISK=".:2m")

    async def disturb(run):
        await reach(run, 10)
        saver = saver_of(run)
        assert saver.serial == 1
        filler = Path(f"/proc/{saver.pid}/root{saver.folder}/work/filler")
        fill(filler)
        before = store.newest_step() if store.manifests() else 0
        await run.wait_until(
            "later commits", lambda _run: store.manifests() and store.newest_step() > before + 5, deadline_seconds=HANG_SECONDS
        )
        make_room(filler)

    life = await store.live(store.document(inputs), disturb)
    assert_undisturbed(life, undisturbed)
    assert life.status.last_formation == 1
    figures.tell(seconds=None, lost_steps=0, same_bytes=True)


def flip(weights: Path) -> None:
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)


@pytest.mark.fault(30)
@pytest.mark.parametrize("harm", [flip, Path.unlink], ids=["flip", "lose"])
async def test_30_a_model_file_in_one_cache_is_spoiled(harm, store, undisturbed, inputs, figures):
    async def disturb(run):
        await reach(run, MIDDLE)
        spoiled, healthy = run.members
        harm(weights_of(run, spoiled))
        run.kill_worker(healthy)
        await run.wait_until(
            "its replacement", lambda run: {member.serial for member in run.members} == {2, 3}, deadline_seconds=HANG_SECONDS
        )

    life = await store.live(store.document(inputs, model=put_model(store, inputs)), disturb)
    assert_undisturbed(life, undisturbed)
    assert lost_steps(life.status) <= 1, life.status.recoveries
    told = [event for event in life.events if "model.safetensors" in event and "another member takes the place" in event]
    assert told, life.events
    figures.tell(seconds=life.status.recoveries[-1].total_seconds, lost_steps=lost_steps(life.status), same_bytes=True)


def shift_clock(folder: Path, seconds: int) -> dict[str, str]:
    """The environment of a process whose wall clock is off; how long things take is not changed."""
    (folder / "clock.c").write_text(CLOCK)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(folder / "clock.so"), str(folder / "clock.c")], check=True)
    return {"LD_PRELOAD": str(folder / "clock.so"), "CLOCK_OFFSET": str(seconds)}


def refuse_wrong_clocks(request) -> Meddling:
    """As S3 does: 15 minutes are tolerated."""
    signed_at = datetime.strptime(request.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    is_wrong = abs((datetime.now(UTC) - signed_at).total_seconds()) > 900
    return Meddling(refusal=(403, "RequestTimeTooSkewed") if is_wrong else None)


@pytest.mark.fault(34)
@pytest.mark.parametrize("offset", [3600, -3600])
async def test_34_the_clock_of_one_member_is_off(offset, change_member, store, undisturbed_of, inputs, tmp_path, figures):
    change_member(1, **shift_clock(tmp_path, offset))

    async def disturb(run):
        await reach(run, 10)
        saver = saver_of(run)
        assert saver.serial == 1
        store.proxy.meddle = refuse_wrong_clocks
        assert "the clock of this node" in await reach_checkpointed(run, "False", "StorageUnavailable")
        await reach(run, run.step + 5)
        store.proxy.meddle = lambda _request: Meddling()
        await reach_checkpointed(run, "True", "Committed")
        run.kill_member(saver)  # the formation before has the later clock, or the earlier one: only its number counts

    life = await store.live(store.document(inputs, training={"maxSteps": LONG}), disturb)
    assert_undisturbed(life, await undisturbed_of(LONG))
    assert lost_steps(life.status) <= 1, life.status.recoveries
    assert [reason for reason in reasons(life) if reason.startswith("Storage")] == ["StorageUnavailable", "StorageUsable"]
    figures.tell(seconds=life.status.recoveries[0].total_seconds, lost_steps=lost_steps(life.status), same_bytes=True)
