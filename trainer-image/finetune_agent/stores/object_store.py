"""Places that hold objects: what every store can do, and the store that is a folder. Keys are relative to the place.

Correctness needs three things of a store: a put is atomic, `if_absent` has one winner, a listing shows what was put.
"""

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Protocol

from finetune_contract.inside import join, resolve_inside
from finetune_contract.keys import LeavesFolder

CHUNK_BYTES = 1 << 20
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_UNFINISHED = ".unfinished-"


class StoreUnavailable(Exception):
    """The store did not answer or answered that it cannot now: try again later."""


class StoreRefused(Exception):
    """The store answered no, in words for the user. `about_credentials`: the place may be right, the keys are not.

    `field` is what is to blame if it is not the place, such as "spec.storage.endpoint".
    """

    def __init__(self, message: str, *, about_credentials: bool = False, field: str | None = None) -> None:
        super().__init__(message)
        self.message, self.about_credentials, self.field = message, about_credentials, field


class ObjectMissing(Exception):
    """No object of this key."""


class PutResult(Enum):
    STORED = auto()
    ALREADY_THERE = auto()


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    """`version` changes when the bytes do (an ETag, or time and size of a file)."""

    key: str
    num_bytes: int
    version: str


class ObjectStore(Protocol):
    """All methods raise StoreUnavailable or StoreRefused; reading what is not there raises ObjectMissing."""

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> PutResult: ...

    def get(self, key: str) -> bytes: ...

    def describe(self, key: str) -> ObjectInfo: ...

    def read(self, key: str) -> Iterator[bytes]: ...

    def list(self, prefix: str) -> tuple[ObjectInfo, ...]: ...

    def delete(self, key: str) -> None: ...


class FolderStore:
    """Objects as files below a folder (file:// and pvc://). Writes appear whole: temporary file, fsync, rename or link.

    `inside`: the claim that no symbolic link may lead out of; None where the folder is the user's own, in a local run.
    """

    def __init__(self, root: Path, *, inside: Path | None = None) -> None:
        self._root, self._inside = root, inside

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> PutResult:
        path = self._path(key)
        with _file_errors(path, is_write=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.parent / f"{_UNFINISHED}{uuid.uuid4().hex}"
            try:
                with unfinished.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                return _link(unfinished, path, data) if if_absent else _rename(unfinished, path)
            finally:
                unfinished.unlink(missing_ok=True)

    def get(self, key: str) -> bytes:
        path = self._path(key)
        with _file_errors(path):
            return path.read_bytes()

    def describe(self, key: str) -> ObjectInfo:
        path = self._path(key)
        with _file_errors(path):
            return _info(key, path)

    def read(self, key: str) -> Iterator[bytes]:
        path = self._path(key)
        with _file_errors(path), path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def list(self, prefix: str) -> tuple[ObjectInfo, ...]:
        folder = self._root / prefix.rpartition("/")[0]
        with _file_errors(folder):
            files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(_UNFINISHED)]
            found = []
            for path in sorted(files):
                with contextlib.suppress(FileNotFoundError, StoreRefused):  # deleted meanwhile; a link that leads out is no object
                    key = path.relative_to(self._root).as_posix()
                    found.append(_info(key, self._path(key)))
        return tuple(info for info in found if info.key.startswith(prefix))

    def delete(self, key: str) -> None:
        path = self._path(key)
        with _file_errors(path):
            path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        """Raises StoreRefused for a key that is no path below the folder, and for links that lead out of the claim."""
        try:
            path = join(self._root, key)
            if self._inside is not None:
                resolve_inside(self._inside, path)
            return path
        except LeavesFolder as error:
            raise StoreRefused(str(error)) from error


def _info(key: str, path: Path) -> ObjectInfo:
    stat = path.stat()
    return ObjectInfo(key=key, num_bytes=stat.st_size, version=f"{stat.st_mtime_ns}-{stat.st_size}")


def _rename(unfinished: Path, path: Path) -> PutResult:
    unfinished.replace(path)
    return PutResult.STORED


def _link(unfinished: Path, path: Path, data: bytes) -> PutResult:
    try:
        path.hardlink_to(unfinished)
    except FileExistsError:
        return PutResult.ALREADY_THERE
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}:
            raise
        return _create(path, data)
    return PutResult.STORED


def _create(path: Path, data: bytes) -> PutResult:
    """For file systems without hard links: one winner still, but a reader may see a part; manifests carry what detects that."""
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError:
        return PutResult.ALREADY_THERE
    return PutResult.STORED


@contextlib.contextmanager
def _file_errors(path: Path, *, is_write: bool = False) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, IsADirectoryError, NotADirectoryError, FileNotFoundError) as error:
        if not is_write:
            raise ObjectMissing(str(path)) from error
        raise StoreRefused(f"{path} cannot be written: {error.strerror} ({error.filename}); move away what is there") from error
    except PermissionError as error:
        raise StoreRefused(f"{path} may not be used by user {os.getuid()} ({error.strerror}); change its owner or its mode") from error
    except OSError as error:
        if error.errno == errno.EROFS:
            raise StoreRefused(f"{path} is on a read-only file system; wanted one that can be written") from error
        raise StoreUnavailable(f"{path}: {error.strerror}") from error
