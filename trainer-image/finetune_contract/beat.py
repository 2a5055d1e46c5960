"""The beat: one counter per local rank in shared memory, advanced at every finished micro-batch and phase change.

The agent compares it with the deadline of the announced phase; a worker that hangs cannot fake it. Beside the counter stands whether
the rank waits for its peers: of all that are silent, those are not the ones to blame. And whether it owes a snapshot: its peers may
have finished a step that it has not kept yet. A second counter advances within a micro-batch, and its tokens are told before it
begins: a large one may take longer than those before it.
"""

import mmap
import os
import struct

_COUNTER = struct.Struct("<Q")
_STRIDE = 64
_WAITS_OFFSET = 8
_OWES_OFFSET = 16
_WITHIN_OFFSET = 24
_TOKENS_OFFSET = 32
MAX_LOCAL_RANKS = 64
NUM_BYTES = _STRIDE * MAX_LOCAL_RANKS


class Beat:
    """Counters behind an open file descriptor; the agent makes it with `Beat.reserve(fd)`."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, NUM_BYTES)

    @staticmethod
    def reserve(fd: int) -> None:
        os.ftruncate(fd, NUM_BYTES)

    def advance(self, local_rank: int) -> None:
        offset = local_rank * _STRIDE
        _COUNTER.pack_into(self._map, offset, _COUNTER.unpack_from(self._map, offset)[0] + 1)

    def advance_within(self, local_rank: int) -> None:
        """A sign of life that ends no micro-batch."""
        offset = local_rank * _STRIDE + _WITHIN_OFFSET
        _COUNTER.pack_into(self._map, offset, _COUNTER.unpack_from(self._map, offset)[0] + 1)

    def read_within(self, local_rank: int) -> int:
        return int(_COUNTER.unpack_from(self._map, local_rank * _STRIDE + _WITHIN_OFFSET)[0])

    def set_tokens(self, local_rank: int, num_tokens: int) -> None:
        """The size of the micro-batch that begins."""
        _COUNTER.pack_into(self._map, local_rank * _STRIDE + _TOKENS_OFFSET, num_tokens)

    def tokens(self, local_rank: int) -> int:
        return int(_COUNTER.unpack_from(self._map, local_rank * _STRIDE + _TOKENS_OFFSET)[0])

    def set_waiting(self, local_rank: int, is_waiting: bool) -> None:
        _COUNTER.pack_into(self._map, local_rank * _STRIDE + _WAITS_OFFSET, int(is_waiting))

    def is_waiting(self, local_rank: int) -> bool:
        return bool(_COUNTER.unpack_from(self._map, local_rank * _STRIDE + _WAITS_OFFSET)[0])

    def set_owes_snapshot(self, local_rank: int, owes: bool) -> None:
        _COUNTER.pack_into(self._map, local_rank * _STRIDE + _OWES_OFFSET, int(owes))

    def owes_snapshot(self, local_rank: int) -> bool:
        return bool(_COUNTER.unpack_from(self._map, local_rank * _STRIDE + _OWES_OFFSET)[0])

    def read(self, local_rank: int) -> int:
        return int(_COUNTER.unpack_from(self._map, local_rank * _STRIDE)[0])
