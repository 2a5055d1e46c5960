"""What a peer sends runs no code: real ranks over gloo, one of which is not ours."""

import os
import pickle
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from finetune_contract.failures import TrainingError
from finetune_trainer.exchange import broadcast_text, forbid_pickle, gather_numbers
from finetune_trainer.sealed_store import SealBroken, SealedStore


class Evil:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def _stranger(folder: str) -> None:
    """Rank 1 answers every broadcast and object collective with a pickle."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=1, world_size=2)
    evil = torch.tensor(list(pickle.dumps(Evil(Path(folder, "ran")))), dtype=torch.uint8)
    gather_numbers((1, 1))
    dist.broadcast(torch.tensor([evil.numel()]), src=1)
    dist.broadcast(evil, src=1)
    dist.all_gather_object([None, None], Evil(Path(folder, "ran")))


def test_a_pickle_from_a_peer_runs_no_code(tmp_path: Path, monkeypatch) -> None:
    for name in ("_pickler", "_unpickler"):
        monkeypatch.setattr(distributed_c10d, name, getattr(distributed_c10d, name))  # put back at the end
    child = get_context("spawn").Process(target=_stranger, args=(str(tmp_path),), daemon=True)
    child.start()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=2)
    try:
        assert gather_numbers((0, 0)) == [[0, 0], [1, 1]]
        with pytest.raises(TrainingError, match="peer lost: rank 1 sent bytes that are not text"):
            broadcast_text(None, 1)
        forbid_pickle()
        with pytest.raises(TrainingError, match="object collective"):
            dist.all_gather_object([None, None], 1)
    finally:
        child.kill()
        dist.destroy_process_group()
    assert not (tmp_path / "ran").exists()


def test_a_stranger_reads_nothing_in_a_sealed_store_and_what_it_writes_is_refused() -> None:
    inner = dist.HashStore()
    ours, theirs = SealedStore(inner, "secret"), SealedStore(inner, "other")
    ours.set("rank 0", "10.0.0.1:4711")
    ours.set("rank 1", b"10.0.0.2:4711")
    assert (ours.get("rank 0"), ours.multi_get(["rank 1"])) == (b"10.0.0.1:4711", [b"10.0.0.2:4711"])
    assert not theirs.check(["rank 0"])
    assert not inner.check(["rank 0"])
    name = ours._name("rank 0")
    assert b"10.0.0.1" not in inner.get(name)
    for forged in (b"10.6.6.6:1", inner.get(ours._name("rank 1")), inner.get(name)[:-1]):
        inner.set(name, forged)
        with pytest.raises(SealBroken):
            ours.get("rank 0")
