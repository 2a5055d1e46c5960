"""Faults of one member's own machine: a disk that is full, files that were damaged. The others never notice.

Numbers in names are those of docs/faults.md. The small disk needs root, or namespaces for users.
"""

from pathlib import Path

import pytest
from tests.faults.lives import NUM_STEPS, lost_steps, reach
from tests.faults.s3_lives import assert_undisturbed, saver_of

from finetune_operator.local.members import LocalMembers

MIDDLE = NUM_STEPS // 2
# Python runs it before anything else: the agent and its children see a small file system where their caches, or all their files, are.
SMALL_DISK = """
import ctypes, os
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
        await run.wait_until("later commits", lambda _run: store.manifests() and store.newest_step() > before + 5, deadline_seconds=60)
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
        await run.wait_until("its replacement", lambda run: {member.serial for member in run.members} == {2, 3}, deadline_seconds=60)

    life = await store.live(store.document(inputs, model=put_model(store, inputs)), disturb)
    assert_undisturbed(life, undisturbed)
    assert lost_steps(life.status) <= 1, life.status.recoveries
    told = [event for event in life.events if "model.safetensors" in event and "another member takes the place" in event]
    assert told, life.events
    figures.tell(seconds=life.status.recoveries[-1].total_seconds, lost_steps=lost_steps(life.status), same_bytes=True)
