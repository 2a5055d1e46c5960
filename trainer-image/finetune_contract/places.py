"""Places in the user's YAML: `s3://bucket/path`, `pvc://claim/path`, `configmap://name/key`, `hf://owner/name`, `file:///path`."""

import re
from dataclasses import dataclass
from enum import StrEnum

PVC_MOUNT_ROOT = "/mnt/pvc"  # the claim of a pvc:// place is mounted at PVC_MOUNT_ROOT/CLAIM
CONFIGMAP_MOUNT_ROOT = "/mnt/configmap"  # as well, with a file for each key
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
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
    """`container` is the bucket, claim, ConfigMap or hub's owner ("" for file); `path` has no leading slash except for file."""

    scheme: Scheme
    container: str
    path: str


def parse_place(uri: str) -> Place:
    """Raises ValueError with the wanted form when `uri` is none of ours."""
    name, separator, rest = uri.partition("://")
    if not separator or name not in {scheme.value for scheme in Scheme}:
        raise ValueError(f"{uri!r} is not a place: wanted one of {', '.join(_WANTED.values())}")
    scheme = Scheme(name)
    if scheme is Scheme.FILE:
        if not rest.startswith("/"):
            raise ValueError(f"{uri!r}: a file place needs an absolute path, as in file:///data/rows.jsonl")
        return Place(scheme=scheme, container="", path=rest)
    container, _, path = rest.partition("/")
    if not container or (scheme is not Scheme.PVC and not path.strip("/")):
        raise ValueError(f"{uri!r} is incomplete: wanted {_WANTED[scheme.value]}")
    if scheme is Scheme.CONFIGMAP and not _KEY.fullmatch(path):
        raise ValueError(
            f"{uri!r}: {path!r} is no key of a ConfigMap; wanted {_WANTED[scheme.value]}, with letters, digits, '-', '_' and '.'"
        )
    return Place(scheme=scheme, container=container, path=path.strip("/"))
