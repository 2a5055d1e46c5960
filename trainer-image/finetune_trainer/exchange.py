"""What ranks tell each other besides gradients: integers, and JSON whose length is bounded. Never pickle: a peer may be anybody.

torch's object collectives unpickle what a peer sends, which runs its code in this process; `forbid_pickle` takes them away from
libraries too. All functions are collective.
"""

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from finetune_contract.failures import PEER_LOST, FailureClass, FailureKind, TrainingError
from finetune_contract.plurals import counted

MAX_TEXT_BYTES = 64 * 1024


def forbid_pickle() -> None:
    """From now on every object collective of torch in this process fails before it reads a byte."""
    from torch.distributed import distributed_c10d

    for name in ("_pickler", "_unpickler"):
        assert hasattr(distributed_c10d, name), f"torch has no {name} any more: object collectives must be forbidden in another way"
        setattr(distributed_c10d, name, _refuse_pickle)


def gather_numbers(own: Sequence[int]) -> list[list[int]]:
    """The integers of every rank, by rank; all give as many."""
    sent = torch.tensor(list(own), dtype=torch.int64)
    gathered = torch.empty(dist.get_world_size() * sent.numel(), dtype=torch.int64)
    dist.all_gather_into_tensor(gathered, sent)
    rows: list[list[int]] = gathered.view(dist.get_world_size(), -1).tolist()
    return rows


def broadcast_text(text: str | None, source: int) -> str:
    """What rank `source` gives, on every rank; the others give None. Raises TrainingError for what is no text, or longer than may be."""
    encoded = b"" if text is None else text.encode()
    assert len(encoded) <= MAX_TEXT_BYTES, "a text to broadcast is longer than its receivers take"
    length = torch.tensor([len(encoded)], dtype=torch.int64)
    dist.broadcast(length, src=source)
    num_bytes = int(length[0])
    if not 0 <= num_bytes <= MAX_TEXT_BYTES:
        raise bad_peer(source, f"a text of {counted(num_bytes, 'byte')}, wanted {MAX_TEXT_BYTES} at most")
    body = torch.zeros(num_bytes, dtype=torch.uint8) if text is None else torch.tensor(list(encoded), dtype=torch.uint8)
    dist.broadcast(body, src=source)
    try:
        return bytes(body.tolist()).decode()
    except UnicodeDecodeError:
        raise bad_peer(source, "bytes that are not text") from None


def bad_peer(rank: int, what: str) -> TrainingError:
    """A peer that says what no rank of ours says: the formation is over, and the fault is not this rank's."""
    return TrainingError(FailureClass.INFRASTRUCTURE, f"{PEER_LOST}: rank {rank} sent {what}", kind=FailureKind.VICTIM)


def _refuse_pickle(*arguments: Any, **named: Any) -> NoReturn:
    raise TrainingError(FailureClass.INTERNAL, "an object collective was called: ranks exchange tensors and JSON only")
