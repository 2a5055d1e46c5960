"""Counter-based randomness: every random number is a function of the seed and of what it is for, never of what was drawn before."""

import hashlib

import numpy as np
import numpy.typing as npt


def seed_of(*parts: int | str) -> int:
    """63 bits out of SHA-256 over the parts; fits torch's generators."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def permutation(count: int, *parts: int | str) -> npt.NDArray[np.int64]:
    """A permutation of range(count) decided by the parts alone.

    Built on the raw stream of Philox, which numpy guarantees to stay the same, unlike its `permutation`.
    """
    raw = np.random.Philox(key=seed_of(*parts)).random_raw(count)
    return np.argsort(raw, kind="stable").astype(np.int64)
