"""The token cache: flat files that grow part by part, and a record that says how much of them is whole.

    part k   ids, marks, starts, numbers are appended    record k is renamed into place: now the part is there, or it never was

Who comes after a kill cuts off what no record covers and goes on behind the last whole part. Readers map the files; the pages belong
to the kernel, not to the process. One writer at a time holds the lock of the folder.
"""

import fcntl
import mmap
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from finetune_contract.times import LOCK_POLL_SECONDS
from finetune_contract.values import Value, changed
from finetune_trainer.tokens import Part, Tally, Tokens

_RECORD, _LOCK = "record.json", "lock"
_WIDTHS = {"ids": 4, "is_target": 1, "starts": 8, "numbers": 8}  # bytes of an entry; `starts` has one more than there are rows


class StoreRecord(Value):
    """How much is whole. `is_complete`: all rows of the data set are."""

    is_complete: bool
    tally: Tally
    files: tuple[str, ...]


class TokenStore:
    """One folder, named by all that decides the tokens in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def locked(self, beat: Callable[[], None]) -> Iterator[None]:
        """The only writer. Beats while another process of this member writes; the kernel frees the lock of one that is killed."""
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            while not _is_taken(lock):
                beat()
                time.sleep(LOCK_POLL_SECONDS)
            yield
        finally:
            os.close(lock)

    def read_record(self) -> StoreRecord | None:
        """None when nothing is whole, or when the files hold less than the record says."""
        try:
            record = StoreRecord.model_validate_json((self._folder / _RECORD).read_bytes())
            sizes = {name: (self._folder / name).stat().st_size for name in _WIDTHS}
        except (OSError, ValidationError):
            return None
        return record if all(sizes[name] >= size for name, size in _sizes(record.tally).items()) else None

    def begin(self) -> StoreRecord | None:
        """Cut off what is not whole; what is. With the lock only."""
        record = self.read_record()
        sizes = _sizes(Tally() if record is None else record.tally)
        for name in _WIDTHS:
            with (self._folder / name).open("ab") as file:
                file.truncate(sizes[name] if record is not None else 0)
        if record is None:
            (self._folder / _RECORD).unlink(missing_ok=True)
            (self._folder / "starts").write_bytes(np.zeros(1, dtype=np.int64).tobytes())
        return record

    def append(self, part: Part, record: StoreRecord) -> None:
        """`record` holds for everything up to the end of this part."""
        before = record.tally.num_tokens - len(part.ids)
        arrays = {
            "ids": part.ids,
            "is_target": part.is_target,
            "starts": before + np.cumsum(part.lengths),
            "numbers": part.numbers,
        }
        for name, array in arrays.items():
            with (self._folder / name).open("ab") as file:
                file.write(np.ascontiguousarray(array).data)
        self._write(record)

    def complete(self, record: StoreRecord) -> None:
        self._write(changed(record, is_complete=True))

    def open(self, record: StoreRecord) -> Tokens:
        """Mapped, read-only."""
        sizes = _sizes(record.tally)
        return Tokens(
            ids=self._map("ids", sizes).view(np.int32),
            is_target=self._map("is_target", sizes).view(np.bool_),
            starts=self._map("starts", sizes).view(np.int64),
            numbers=self._map("numbers", sizes).view(np.int64),
            tally=record.tally,
            files=record.files,
        )

    def _map(self, name: str, sizes: dict[str, int]) -> npt.NDArray[np.uint8]:
        with (self._folder / name).open("rb") as file:
            return np.frombuffer(mmap.mmap(file.fileno(), sizes[name], prot=mmap.PROT_READ), dtype=np.uint8)

    def _write(self, record: StoreRecord) -> None:
        partial = self._folder / f"{_RECORD}.partial"
        partial.write_text(record.model_dump_json())
        partial.replace(self._folder / _RECORD)


def _sizes(tally: Tally) -> dict[str, int]:
    """Bytes of each file that are whole."""
    counts = {"ids": tally.num_tokens, "is_target": tally.num_tokens, "starts": tally.num_kept + 1, "numbers": tally.num_kept}
    return {name: count * _WIDTHS[name] for name, count in counts.items()}


def _is_taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
