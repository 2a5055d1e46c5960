"""Model and data from wherever the YAML says onto this machine. A folder is used in place; the rest goes to the cache, once.

Raises StoreUnavailable (again later), StoreRefused and ObjectMissing (the user's) and InputChanged; never retries by itself.
"""

import hashlib
from pathlib import Path
from random import Random

from finetune_agent.credentials import CredentialFiles
from finetune_agent.digests import Fetched, InputChanged, combine, hash_file, is_model_file, read_marker, write_marker
from finetune_agent.hub import Hub
from finetune_agent.open_store import folder_of, open_store
from finetune_agent.stores import ObjectInfo, ObjectStore, StoreRefused, StoreUnavailable
from finetune_contract.config import ModelConfig, StorageConfig
from finetune_contract.places import CONFIGMAP_MOUNT_ROOT, Place, Scheme, parse_place


class Fetch:
    """`bytes_total` grows as sizes become known; `bytes_done` is what lies in the cache."""

    def __init__(self, *, storage: StorageConfig, credentials: CredentialFiles, cache: Path, random: Random) -> None:
        self._storage, self._credentials, self._cache, self._random = storage, credentials, cache, random
        self._hub = Hub(token=credentials.read_hub_token)
        self._totals: dict[Path, int] = {}

    @property
    def bytes_total(self) -> int | None:
        return sum(self._totals.values()) or None

    def bytes_done(self) -> int:
        return sum(_size(path) for folder in tuple(self._totals) for path in folder.rglob("*"))

    def model(self, model: ModelConfig) -> Fetched:
        place = parse_place(model.uri)
        if place.scheme in {Scheme.FILE, Scheme.PVC}:
            return _model_in_place(_folder_in_place(place, model.uri), model.uri)
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
        place = parse_place(model.uri)
        if place.scheme in {Scheme.FILE, Scheme.PVC}:
            return _folder_in_place(place, model.uri)
        folder = self._folder("tokenizer", f"{model.uri}@{model.revision}")
        if place.scheme is Scheme.HF:
            found = self._hub.find_model(place, model.revision)
            for name in filter(_is_no_weight, found.names):
                self._hub.download(found, name, folder)
        else:
            self._model_from_s3(place, model.uri, folder, with_weights=False)
        return folder

    def dataset(self, uri: str, purpose: str) -> Fetched:
        """One JSON Lines file. `purpose` ("train", "eval") keeps the two apart in the cache."""
        place = parse_place(uri)
        if place.scheme in {Scheme.FILE, Scheme.PVC}:
            return _file_in_place(folder_of(place), uri)
        folder = self._folder(purpose, uri)
        known = read_marker(folder, uri)
        if known is not None:
            return known
        if place.scheme is Scheme.HF:
            fetched = self._dataset_from_hub(place, folder)
        elif place.scheme is Scheme.CONFIGMAP:
            fetched = copy_of_key(place, Path(CONFIGMAP_MOUNT_ROOT), folder / "rows.jsonl")
        else:
            store, key = self._open_parent(place)
            info = store.describe(key)
            self._totals[folder] = info.num_bytes
            target = folder / "rows.jsonl"
            fetched = Fetched(path=target, sha256=_download(store, info, target))
        write_marker(folder, uri, fetched)
        return fetched

    def _folder(self, purpose: str, source: str) -> Path:
        folder = self._cache / f"{purpose}-{hashlib.sha256(source.encode()).hexdigest()[:12]}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _model_from_s3(self, place: Place, uri: str, folder: Path, *, with_weights: bool = True) -> dict[str, str]:
        store = open_store(place, storage=self._storage, credentials=self._credentials, random=self._random)
        infos = tuple(info for info in store.list("") if is_model_file(info.key))
        _refuse_no_model(uri, [info.key for info in infos])
        infos = tuple(info for info in infos if with_weights or _is_no_weight(info.key))
        self._totals[folder] = sum(info.num_bytes for info in infos)
        return {info.key: _download(store, info, folder / info.key) for info in infos}

    def _dataset_from_hub(self, place: Place, folder: Path) -> Fetched:
        found = self._hub.find_rows(place)
        self._totals[folder] = found.num_bytes
        paths = [self._hub.download(found, name, folder) for name in found.names]
        if len(paths) == 1:
            return Fetched(path=paths[0], sha256=hash_file(paths[0]), revision=found.commit)
        target = folder / "rows.jsonl"
        with target.open("wb") as rows:
            for path in paths:
                data = path.read_bytes()
                rows.write(data if data.endswith(b"\n") else data + b"\n")
        return Fetched(path=target, sha256=hash_file(target), revision=found.commit)

    def _open_parent(self, place: Place) -> tuple[ObjectStore, str]:
        parent, _, key = place.path.rpartition("/")
        above = Place(scheme=place.scheme, container=place.container, path=parent)
        return open_store(above, storage=self._storage, credentials=self._credentials, random=self._random), key


def _model_in_place(folder: Path, uri: str) -> Fetched:
    paths = sorted(path for path in folder.iterdir() if path.is_file() and is_model_file(path.name))
    _refuse_no_model(uri, [path.name for path in paths])
    return Fetched(path=folder, sha256=combine({path.name: hash_file(path) for path in paths}))


def _folder_in_place(place: Place, uri: str) -> Path:
    folder = folder_of(place)
    if not folder.is_dir():
        raise StoreRefused(f"{uri} is not a folder; wanted one with config.json and *.safetensors")
    return folder


def _is_no_weight(name: str) -> bool:
    return not name.endswith(".safetensors")


def _file_in_place(path: Path, uri: str) -> Fetched:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise StoreRefused(f"{uri} {what}; wanted a file with one JSON object a line")
    return Fetched(path=path, sha256=hash_file(path))


def copy_of_key(place: Place, mounts: Path, target: Path) -> Fetched:
    """A copy: an edit of the ConfigMap reaches the mounted file, also between two formations."""
    mount = mounts / place.container
    keys = sorted(entry.name for entry in mount.iterdir() if not entry.name.startswith("..")) if mount.is_dir() else []
    if not keys:
        raise StoreUnavailable(f"there is no ConfigMap {place.container} in this namespace, or it is empty")
    if place.path not in keys:
        raise StoreRefused(f"the ConfigMap {place.container} has no key {place.path}; it has {', '.join(keys)}")
    target.write_bytes((mount / place.path).read_bytes())
    return Fetched(path=target, sha256=hash_file(target))


def _refuse_no_model(uri: str, names: list[str]) -> None:
    missing = [
        what
        for what, is_there in (
            ("config.json", "config.json" in names),
            ("*.safetensors", any(name.endswith(".safetensors") for name in names)),
        )
        if not is_there
    ]
    if missing:
        came = f"{len(names)} model files" if names else "nothing of a model"
        raise StoreRefused(f"there is no model at {uri}: {came}, {' and '.join(missing)} missing; check the uri, or upload the model there")


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
        raise InputChanged(f"{info.key} changed while it was downloaded ({num_bytes} bytes of {info.num_bytes})")
    return digest.hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:  # renamed by a download that ended
        return 0
