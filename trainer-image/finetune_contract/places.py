"""Places in the user's YAML: `s3://bucket/path`, `pvc://claim/path`, `configmap://name/key`, `hf://owner/name`, `file:///path`."""

import re
from dataclasses import dataclass
from enum import StrEnum

from finetune_contract.keys import LeavesFolder, check_key

PVC_MOUNT_ROOT = "/mnt/pvc"  # the claim of a pvc:// place is mounted at PVC_MOUNT_ROOT/CLAIM
CONFIGMAP_MOUNT_ROOT = "/mnt/configmap"  # as well, with a file for each key
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_MAX_NAME_CHARS = 253
_KEY = re.compile(r"(?!\.\.)(?!\.$)[-._a-zA-Z0-9]{1,253}")
_BUCKET = re.compile(r"[a-zA-Z0-9]([-._a-zA-Z0-9]{0,253}[a-zA-Z0-9])?")
_OWNER = re.compile(r"[a-zA-Z0-9_][-._a-zA-Z0-9]{0,95}")
_HUB_KINDS = ("datasets", "models", "spaces")  # begin the paths of a hub's pages, and are the name of no owner
_SECRETS = re.compile(r"(?<=//)[^/@]*@|\?.*", re.DOTALL)  # what a link may carry: user and password, a signature
_WANTED = {
    "hf": "hf://OWNER/NAME",
    "s3": "s3://BUCKET/PATH",
    "pvc": "pvc://CLAIM/PATH",
    "configmap": "configmap://NAME/KEY",
    "file": "file:///PATH",
}


class Scheme(StrEnum):
    """Where a place is. FILE is for local runs only."""

    HF = "hf"
    S3 = "s3"
    PVC = "pvc"
    CONFIGMAP = "configmap"
    FILE = "file"


@dataclass(frozen=True, kw_only=True)
class Place:
    """`container` is the bucket, claim, ConfigMap or hub's owner ("" for file); `path` has no leading slash except for file.

    No part of `path` is empty, "." or "..", but a ConfigMap, a bucket or a claim may still hold links: see `inside.py`.
    """

    scheme: Scheme
    container: str
    path: str


def parse_place(uri: str) -> Place:
    """Raises ValueError with the wanted form when `uri` is none of ours."""
    name, separator, rest = uri.partition("://")
    if not separator or name not in {scheme.value for scheme in Scheme}:
        raise ValueError(f"{_without_secrets(uri)!r} is not a place: wanted one of {', '.join(_WANTED.values())}")
    scheme = Scheme(name)
    if scheme is Scheme.FILE:
        if not rest.startswith("/"):
            raise ValueError(f"{_shown(uri)}: a file place needs an absolute path, as in file:///data/rows.jsonl")
        _check_path(uri, rest.strip("/"))
        return Place(scheme=scheme, container="", path=rest)
    container, _, path = rest.partition("/")
    if not container or (scheme is not Scheme.PVC and not path.strip("/")):
        raise ValueError(f"{_shown(uri)} is incomplete: wanted {_WANTED[scheme.value]}")
    if "@" in container:
        raise ValueError(f"{_shown(uri)} carries credentials; a place holds none: put them into the Secret of storage.secretName")
    _check_container(uri, scheme, container)
    if scheme is Scheme.HF:
        _check_repository(uri, container, path)
    if scheme is Scheme.CONFIGMAP and not _KEY.fullmatch(path):
        raise ValueError(
            f"{_shown(uri)}: {path!r} is not a key of a ConfigMap; wanted {_WANTED[scheme.value]}, with letters, digits, '-', '_' and '.'"
        )
    # One slash at the end means a folder; S3 takes a key with two for another object.
    _check_path(uri, path.removesuffix("/"))
    return Place(scheme=scheme, container=container, path=path.removesuffix("/"))


def is_pattern(path: str) -> bool:
    """Whether `path` names files by wildcards."""
    return any(char in path for char in "*?")


def check_pattern(uri: str, *, is_allowed: bool) -> None:
    """Raises ValueError for wildcards where one thing is wanted, and for those before the last slash."""
    if is_pattern(uri) and not is_allowed:
        raise ValueError(f"{_shown(uri)} has wildcards; wanted one place")
    if is_pattern(uri.rpartition("/")[0]):
        raise ValueError(f"{_shown(uri)}: wildcards may stand after the last slash only, as in s3://BUCKET/FOLDER/*.jsonl")


def _check_container(uri: str, scheme: Scheme, container: str) -> None:
    if scheme is Scheme.S3 and (not _BUCKET.fullmatch(container) or ".." in container):
        wanted = "3 to 63 lower-case letters, digits, '-' and '.'"
        raise ValueError(f"{_shown(uri)}: {container!r} is not the name of a bucket; wanted {wanted}")
    if scheme in {Scheme.PVC, Scheme.CONFIGMAP} and (len(container) > _MAX_NAME_CHARS or not _NAME.fullmatch(container)):
        what = "claim" if scheme is Scheme.PVC else "ConfigMap"
        raise ValueError(f"{_shown(uri)}: {container!r} is not the name of a {what}; wanted lower-case letters, digits, '-' and '.'")
    if scheme is Scheme.HF and not _OWNER.fullmatch(container):
        raise ValueError(f"{_shown(uri)}: {container!r} is not the name of an owner on a hub; wanted {_WANTED[scheme.value]}")


def _check_repository(uri: str, owner: str, path: str) -> None:
    if owner in _HUB_KINDS:
        raise ValueError(f"{_shown(uri)}: leave {owner}/ out; wanted {_WANTED['hf']}")
    name, sign, _ = path.partition("/")[0].partition("@")
    if sign:
        raise ValueError(f"{_shown(uri)}: a place has no revision; wanted hf://{owner}/{name}, and for a model its spec.model.revision")
    if not _OWNER.fullmatch(name):
        raise ValueError(f"{_shown(uri)}: {name!r} is not the name of a repository; wanted letters, digits, '-', '_' and '.'")


def _shown(uri: str) -> str:
    """Quoted. A wildcard is no signature, so that only what stands before a host is taken out."""
    head, separator, rest = uri.partition("://")
    container, slash, path = rest.partition("/")
    return repr(f"{head}{separator}{'...@' + container.rpartition('@')[2] if '@' in container else container}{slash}{path}")


def _without_secrets(uri: str) -> str:
    return _SECRETS.sub("...", uri) if "://" in uri else uri


def _check_path(uri: str, path: str) -> None:
    if not path:
        return
    try:
        check_key(path)
    except LeavesFolder as error:
        raise ValueError(f"{_shown(uri[:80])}: {error}") from None
