"""What a test may expect of the machine that it runs on."""

import time

# A wait that only guards against hanging costs nothing when all is well, so it may be long: machines differ by a factor of twenty.
HANG_SECONDS = 300.0
# The seconds of `_reference_work` on the machine that the promised seconds were measured on.
REFERENCE_SECONDS = 0.05
_NUM_ADDITIONS = 500_000
_NUM_TOUCHED_BYTES = 16 << 20
_PAGE_BYTES = 4096


def slowness() -> float:
    """How many times slower than the reference this machine is now, at least 1: factor of a wait that does assert a speed."""
    return max(1.0, max(_reference_work() for _ in range(3)) / REFERENCE_SECONDS)


def _reference_work() -> float:
    """Seconds for a loop and for fresh pages of memory: of what starting a process and a step consist."""
    started = time.perf_counter()
    total = 0
    for number in range(_NUM_ADDITIONS):
        total += number
    fresh = bytearray(_NUM_TOUCHED_BYTES)
    for page in range(0, _NUM_TOUCHED_BYTES, _PAGE_BYTES):
        fresh[page] = 1
    return time.perf_counter() - started
