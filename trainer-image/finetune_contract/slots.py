"""Snapshot slots: three memory-backed places for the newest resume states of one member.

    page 0            magic, layout, state capacity
    slot i            header page (sequence, formation, step, lengths, CRC, lease) + record (64 KiB) + flat state

The writer takes a slot that is neither newest nor leased: sequence odd, bytes, CRC, sequence even. A reader leases a slot, reads,
checks the CRC and then the sequence again. One writer and one leasing reader at a time; no locks, because either side may be
killed at any instruction. Torch-free: the state is anything with the buffer protocol (fp32, adapter | m | v, one after another).
A write may run in a thread beside training: copy and checksum are one call each that does not hold the interpreter's lock.
"""

import mmap
import os
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetune_contract.plurals import counted
from finetune_contract.state import RunRecord, StateId

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

NUM_SLOTS = 3
_PAGE = 4096
_RECORD_BYTES = 64 * 1024
_MAGIC = b"FTSLOTS1"
_FILE_HEADER = struct.Struct("<8sQ")
_SLOT_HEADER = struct.Struct("<QQQQQQ")  # sequence, formation, step, state bytes, record bytes, crc
_LEASE_OFFSET = 2048
_LEASE = struct.Struct("<Q")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A resume state with its own copy of the bytes; `state` has `record.num_parameters * 12` bytes."""

    state_id: StateId
    record: RunRecord
    state: bytes
    crc32: int


@dataclass(frozen=True)
class _Header:
    sequence: int
    formation: int
    step: int
    num_state_bytes: int
    num_record_bytes: int
    crc32: int

    @property
    def is_stable(self) -> bool:
        return self.sequence > 0 and self.sequence % 2 == 0

    @property
    def order(self) -> tuple[int, int]:
        return (self.formation, self.step)


class SlotFile:
    """The slots behind an open file descriptor (tmpfs or memfd); every process that uses them opens its own SlotFile."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._map: mmap.mmap | None = None
        self._capacity = 0

    def reserve(self, num_state_bytes: int) -> None:
        """Make room for states of this size and touch every page now, so that no step pays for it. Keeps what is stored."""
        if self._open() and self._capacity >= num_state_bytes:
            return
        kept = self.read_newest() if self._capacity else None
        self._close()
        capacity = -(-num_state_bytes // _PAGE) * _PAGE
        os.ftruncate(self._fd, 0)
        os.posix_fallocate(self._fd, 0, _PAGE + NUM_SLOTS * (_PAGE + _RECORD_BYTES + capacity))
        os.pwrite(self._fd, _FILE_HEADER.pack(_MAGIC, capacity), 0)
        self._open()
        if kept is not None:
            self.write(kept.state_id, kept.record, kept.state)

    def write(self, state_id: StateId, record: RunRecord, state: "ReadableBuffer") -> None:
        """Store one state. Raises ValueError when it is larger than what was reserved."""
        view = memoryview(state).cast("B")
        if not self._open() or view.nbytes > self._capacity:
            raise ValueError(f"state of {counted(view.nbytes, 'byte')} does not fit a slot of {counted(self._capacity, 'byte')}")
        encoded = record.model_dump_json().encode()
        if len(encoded) > _RECORD_BYTES:
            raise ValueError(f"run record of {counted(len(encoded), 'byte')} does not fit {_RECORD_BYTES} bytes")
        slot = self._writable_slot()
        start, sequence = self._offset(slot), self._header(slot).sequence
        busy = sequence + 1 if sequence % 2 == 0 else sequence
        memory = self._memory()
        numbers = (state_id.formation, state_id.step, view.nbytes, len(encoded))
        _SLOT_HEADER.pack_into(memory, start, busy, *numbers, 0)
        memory[start + _PAGE : start + _PAGE + len(encoded)] = encoded
        _write_all(self._fd, view, start + _PAGE + _RECORD_BYTES)
        _SLOT_HEADER.pack_into(memory, start, busy + 1, *numbers, zlib.crc32(view))

    def newest_id(self) -> StateId | None:
        """Name of the newest complete state, without reading it."""
        slot = self._newest_slot()
        if slot is None:
            return None
        header = self._header(slot)
        return StateId(formation=header.formation, step=header.step)

    def read_newest(self) -> Snapshot | None:
        """The newest state that verifies; None if no slot does. Falls back to an older slot when a CRC is wrong."""
        if not self._open():
            return None
        slots = [slot for slot in range(NUM_SLOTS) if self._header(slot).is_stable]
        for slot in sorted(slots, key=lambda number: self._header(number).order, reverse=True):
            snapshot = self._read(slot)
            if snapshot is not None:
                return snapshot
        return None

    def _read(self, slot: int) -> Snapshot | None:
        memory, start = self._memory(), self._offset(slot)
        _LEASE.pack_into(memory, start + _LEASE_OFFSET, 1)
        try:
            header = self._header(slot)
            body = start + _PAGE + _RECORD_BYTES
            state = memory[body : body + header.num_state_bytes]
            encoded = memory[start + _PAGE : start + _PAGE + header.num_record_bytes]
            unchanged = header.is_stable and self._header(slot) == header
            if not unchanged or zlib.crc32(state) != header.crc32:
                return None
            state_id = StateId(formation=header.formation, step=header.step)
            record = RunRecord.model_validate_json(encoded)
            return Snapshot(state_id=state_id, record=record, state=state, crc32=header.crc32)
        finally:
            _LEASE.pack_into(memory, start + _LEASE_OFFSET, 0)

    def _writable_slot(self) -> int:
        newest, memory = self._newest_slot(), self._memory()
        leased = [_LEASE.unpack_from(memory, self._offset(slot) + _LEASE_OFFSET)[0] for slot in range(NUM_SLOTS)]
        free = [slot for slot in range(NUM_SLOTS) if slot != newest and not leased[slot]]
        stable_order = {slot: self._header(slot).order if self._header(slot).is_stable else (-1, -1) for slot in free}
        return min(free, key=lambda slot: stable_order[slot])

    def _newest_slot(self) -> int | None:
        if not self._open():
            return None
        stable = [slot for slot in range(NUM_SLOTS) if self._header(slot).is_stable]
        return max(stable, key=lambda slot: self._header(slot).order, default=None)

    def _header(self, slot: int) -> _Header:
        return _Header(*_SLOT_HEADER.unpack_from(self._memory(), self._offset(slot)))

    def _offset(self, slot: int) -> int:
        return _PAGE + slot * (_PAGE + _RECORD_BYTES + self._capacity)

    def _memory(self) -> mmap.mmap:
        assert self._map is not None
        return self._map

    def _open(self) -> bool:
        """Map the file; again when another process made it larger. False while nothing was reserved."""
        size = os.fstat(self._fd).st_size
        if self._map is not None and len(self._map) == size:
            return True
        self._close()
        if size < _PAGE:
            return False
        magic, capacity = _FILE_HEADER.unpack(os.pread(self._fd, _FILE_HEADER.size, 0))
        if magic != _MAGIC:
            return False
        self._map, self._capacity = mmap.mmap(self._fd, size), capacity
        return True

    def _close(self) -> None:
        if self._map is not None:
            self._map.close()
        self._map, self._capacity = None, 0


def _write_all(fd: int, view: memoryview, offset: int) -> None:
    """Into the pages that the map shows too. A copy into the map would hold the interpreter's lock; the kernel takes 2 GiB at a time."""
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
