"""Model and data from wherever the YAML says onto this machine. A folder is used in place; the rest goes to the cache, once.

Raises StoreUnavailable (again later), StoreRefused and ObjectMissing (the user's) and InputChanged; never retries by itself.
"""

import hashlib
from pathlib import Path
from random import Random

from finetune_agent.preparing.digests import Fetched, InputChanged, combine, hash_file, read_marker, write_marker
from finetune_agent.preparing.hub import Hub, HubFiles
from finetune_agent.preparing.in_place import folder_in_place, model_in_place, refuse_no_model, rows_in_place
from finetune_agent.preparing.model_files import is_model_file
from finetune_agent.preparing.row_files import choose_files
from finetune_agent.settings import LOCAL, Reach
from finetune_agent.stores.credentials import CredentialFiles
from finetune_agent.stores.object_store import ObjectInfo, ObjectMissing, ObjectStore, StoreRefused, StoreUnavailable
from finetune_agent.stores.open_store import check_inside, claim_of, folder_of, open_store
from finetune_contract.config import ModelConfig, StorageConfig
from finetune_contract.inside import join
from finetune_contract.keys import LeavesFolder
from finetune_contract.places import CONFIGMAP_MOUNT_ROOT, Place, Scheme, check_pattern, is_pattern, parse_place
from finetune_contract.plurals import counted


class Fetch:
    """`bytes_total` grows as sizes become known; `bytes_done` is what lies in the cache."""

    def __init__(self, *, storage: StorageConfig, credentials: CredentialFiles, cache: Path, random: Random, reach: Reach = LOCAL) -> None:
        self._storage, self._credentials, self._cache, self._random, self._reach = storage, credentials, cache, random, reach
        self._hub = Hub(token=credentials.read_hub_token, allowed_endpoints=reach.allowed_endpoints)
        self._totals: dict[Path, int] = {}

    @property
    def bytes_total(self) -> int | None:
        return sum(self._totals.values()) or None

    def bytes_done(self) -> int:
        return sum(_size(path) for folder in tuple(self._totals) for path in folder.rglob("*"))

    def model(self, model: ModelConfig) -> Fetched:
        place = _parse(model.uri, are_many=False)
        if place.scheme in {Scheme.FILE, Scheme.PVC}:
            return model_in_place(folder_of(place, self._reach), model.uri, claim=claim_of(place))
        folder = self._folder("model", f"{model.uri}@{model.revision}")
        source = f"{model.uri}@{model.revision}"
        known = read_marker(folder, source)
        if known is not None:
            return known
        if place.scheme is Scheme.HF:
            found = self._hub.find_model(place, model.revision)
            self._totals[folder] = found.num_bytes
            digests = {name: hash_file(self._hub.download(found, name, folder)) for name in found.names}
            fetched = Fetched(path=folder, sha256=combine(digests), revision=found.commit)
        else:
            fetched = Fetched(path=folder, sha256=combine(self._model_from_s3(place, model.uri, folder)))
        write_marker(folder, source, fetched)
        return fetched

    def tokenizer(self, model: ModelConfig) -> Path:
        """A folder with everything of the model but its weights."""
        place = _parse(model.uri, are_many=False)
        if place.scheme in {Scheme.FILE, Scheme.PVC}:
            return folder_in_place(folder_of(place, self._reach), model.uri, claim=claim_of(place))
        folder = self._folder("tokenizer", f"{model.uri}@{model.revision}")
        if place.scheme is Scheme.HF:
            found = self._hub.find_model(place, model.revision)
            for name in filter(_is_no_weight, found.names):
                self._hub.download(found, name, folder)
        else:
            self._model_from_s3(place, model.uri, folder, with_weights=False)
        return folder

    def dataset(self, uri: str, purpose: str) -> Fetched:
        """One file of rows, or those of a folder or a pattern, in the order of their names. `purpose`: "train" or "eval"."""
        place = _parse(uri, are_many=True)
        if place.scheme in {Scheme.FILE, Scheme.PVC}:
            return self._rows_in_place(place, uri)
        folder = self._folder(purpose, uri)
        known = read_marker(folder, uri)
        if known is not None:
            return known
        if place.scheme is Scheme.HF:
            fetched = self._rows_from_hub(self._hub.find_rows(place), folder)
        elif place.scheme is Scheme.CONFIGMAP:
            fetched = copy_of_key(place, Path(CONFIGMAP_MOUNT_ROOT), folder / "rows.jsonl")
        else:
            fetched = self._rows_from_s3(place, uri, folder)
        write_marker(folder, uri, fetched)
        return fetched

    def _rows_in_place(self, place: Place, uri: str) -> Fetched:
        above, last = place, ""
        if is_pattern(place.path):
            above, last = _above(place)
        return rows_in_place(folder_of(above, self._reach), last, uri, claim=claim_of(place))

    def _folder(self, purpose: str, source: str) -> Path:
        folder = self._cache / f"{purpose}-{hashlib.sha256(source.encode()).hexdigest()[:12]}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _model_from_s3(self, place: Place, uri: str, folder: Path, *, with_weights: bool = True) -> dict[str, str]:
        store = self._open(place)
        listed = store.list("")
        refuse_no_model(uri, [info.key for info in listed])
        infos = tuple(info for info in listed if is_model_file(info.key) and (with_weights or _is_no_weight(info.key)))
        self._totals[folder] = sum(info.num_bytes for info in infos)
        return {info.key: _download(store, info, _join(folder, info.key)) for info in infos}

    def _rows_from_hub(self, found: HubFiles, folder: Path) -> Fetched:
        self._totals[folder] = found.num_bytes
        files = tuple(self._hub.download(found, name, folder) for name in found.names)
        return _fetched_rows(files, [hash_file(file) for file in files], found.names, revision=found.commit)

    def _rows_from_s3(self, place: Place, uri: str, folder: Path) -> Fetched:
        above, last = _above(place)
        if not is_pattern(last) and not uri.endswith("/"):
            store = self._open(above)
            try:
                info = store.describe(last)
            except ObjectMissing as missing:
                try:
                    return self._folder_from_s3(place, "", uri, folder)
                except StoreRefused:
                    raise missing from None
            self._totals[folder] = info.num_bytes
            target = folder / "rows.jsonl"
            return _fetched_rows((target,), [_download(store, info, target)], (last,))
        return self._folder_from_s3(above if is_pattern(last) else place, last if is_pattern(last) else "", uri, folder)

    def _folder_from_s3(self, place: Place, pattern: str, uri: str, folder: Path) -> Fetched:
        store = self._open(place)
        infos = {info.key: info for info in store.list("")}
        names = choose_files(tuple(infos), pattern, uri=uri)
        self._totals[folder] = sum(infos[name].num_bytes for name in names)
        files = tuple(_join(folder, name) for name in names)
        digests = [_download(store, infos[name], file) for name, file in zip(names, files, strict=True)]
        return _fetched_rows(files, digests, names)

    def _open(self, place: Place) -> ObjectStore:
        return open_store(place, storage=self._storage, credentials=self._credentials, random=self._random, reach=self._reach)


def _is_no_weight(name: str) -> bool:
    return not name.endswith(".safetensors")


def _parse(uri: str, *, are_many: bool) -> Place:
    """Raises StoreRefused for what slipped past the checks of the resource."""
    try:
        check_pattern(uri, is_allowed=are_many)
        return parse_place(uri)
    except ValueError as error:
        raise StoreRefused(str(error)) from error


def _above(place: Place) -> tuple[Place, str]:
    parent, _, last = place.path.rpartition("/")
    if place.scheme is Scheme.FILE:
        parent = parent or "/"
    return Place(scheme=place.scheme, container=place.container, path=parent), last


def _fetched_rows(files: tuple[Path, ...], digests: list[str], names: tuple[str, ...], *, revision: str | None = None) -> Fetched:
    """The digest of one file is that of its bytes, wherever it lies; that of many counts their names, for they decide the order."""
    last = [name.rpartition("/")[2] for name in names]
    sha256 = digests[0] if len(files) == 1 else combine(dict(zip(last, digests, strict=True)))
    return Fetched(path=files[0], sha256=sha256, revision=revision, files=files)


def _join(folder: Path, name: str) -> Path:
    try:
        return join(folder, name)
    except LeavesFolder as error:
        raise StoreRefused(str(error)) from error


def copy_of_key(place: Place, mounts: Path, target: Path) -> Fetched:
    """A copy: an edit of the ConfigMap reaches the mounted file, also between two formations."""
    mount = mounts / place.container
    keys = sorted(entry.name for entry in mount.iterdir() if not entry.name.startswith("..")) if mount.is_dir() else []
    if not keys:
        raise StoreUnavailable(f"there is no ConfigMap {place.container} in this namespace, or it is empty")
    if place.path not in keys:
        raise StoreRefused(f"the ConfigMap {place.container} has no key {place.path}; it has {', '.join(keys)}")
    target.write_bytes(check_inside(mount, mount / place.path).read_bytes())
    return _fetched_rows((target,), [hash_file(target)], (place.path,))


def _download(store: ObjectStore, info: ObjectInfo, target: Path) -> str:
    """Hash while writing. What a former attempt wrote is overwritten."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, num_bytes = hashlib.sha256(), 0
    with target.open("wb") as file:
        for chunk in store.read(info.key):
            digest.update(chunk)
            file.write(chunk)
            num_bytes += len(chunk)
    if num_bytes != info.num_bytes or store.describe(info.key).version != info.version:
        raise InputChanged(f"{info.key} changed while it was downloaded ({num_bytes} of {counted(info.num_bytes, 'byte')})")
    return digest.hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:  # renamed by a download that ended
        return 0
