"""A store of a process group whose keys and values mean something only to those who hold the secret of the formation.

torch's TCPStore asks nobody who they are: whoever reaches its port lists, reads and writes. Here keys are hashes, and values are
enciphered and bound to their key: a stranger reads nothing and is not read. It can still disturb: counters are plain, keys can go.
"""

import hashlib
import hmac
import os
from collections.abc import Sequence
from datetime import timedelta

import torch.distributed as dist

_NONCE_BYTES, _TAG_BYTES = 16, 32
# torch keeps only the C++ half of a store, and a later group of the process asks it: then its methods must still be here.
_ALIVE: list[dist.Store] = []


class SealBroken(RuntimeError):
    """A value that nobody with the secret has written."""


class SealedStore(dist.Store):
    """Over `inner`; all ranks of one formation give the same `secret`."""

    def __init__(self, inner: dist.Store, secret: str) -> None:
        super().__init__()
        _ALIVE.append(self)
        self._inner = inner
        self._names, self._bytes, self._tags = (hmac.digest(secret.encode(), use, "sha256") for use in (b"names", b"bytes", b"tags"))

    def set(self, key: str, value: str | bytes) -> None:
        self._inner.set(self._name(key), self._seal(key, value.encode() if isinstance(value, str) else value))

    def get(self, key: str) -> bytes:
        return self._open(key, self._inner.get(self._name(key)))

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        return [self.get(key) for key in keys]

    def multi_set(self, keys: Sequence[str], values: Sequence[str | bytes]) -> None:
        for key, value in zip(keys, values, strict=True):
            self.set(key, value)

    def add(self, key: str, amount: int) -> int:
        return int(self._inner.add(self._name(key), amount))

    def check(self, keys: Sequence[str]) -> bool:
        return bool(self._inner.check([self._name(key) for key in keys]))

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        names = [self._name(key) for key in keys]
        if timeout is None:
            self._inner.wait(names)
        else:
            self._inner.wait(names, timeout)

    def delete_key(self, key: str) -> bool:
        return bool(self._inner.delete_key(self._name(key)))

    def num_keys(self) -> int:
        return int(self._inner.num_keys())

    def set_timeout(self, timeout: timedelta) -> None:
        self._inner.set_timeout(timeout)

    def has_extended_api(self) -> bool:
        return False

    def _name(self, key: str) -> str:
        return hmac.new(self._names, key.encode(), "sha256").hexdigest()

    def _seal(self, key: str, value: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        hidden = self._cipher(nonce, value)
        return nonce + hidden + self._tag(key, nonce + hidden)

    def _open(self, key: str, sealed: bytes) -> bytes:
        body, tag = sealed[:-_TAG_BYTES], sealed[-_TAG_BYTES:]
        if len(body) < _NONCE_BYTES or not hmac.compare_digest(tag, self._tag(key, body)):
            raise SealBroken("the process group's store holds a value that no member of this formation wrote")
        return self._cipher(body[:_NONCE_BYTES], body[_NONCE_BYTES:])

    def _tag(self, key: str, body: bytes) -> bytes:
        return hmac.digest(self._tags, len(key.encode()).to_bytes(4, "big") + key.encode() + body, "sha256")

    def _cipher(self, nonce: bytes, value: bytes) -> bytes:
        """XOR with HMAC-SHA256 of nonce and counter: the same both ways."""
        blocks = range(-(-len(value) // hashlib.sha256().digest_size))
        stream = b"".join(hmac.digest(self._bytes, nonce + block.to_bytes(8, "big"), "sha256") for block in blocks)
        return bytes(left ^ right for left, right in zip(value, stream, strict=False))
