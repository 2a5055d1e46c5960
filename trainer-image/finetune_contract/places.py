"""Places in the user's YAML: `s3://bucket/path`, `pvc://claim/path`, `hf://owner/name`, `file:///path`."""

from dataclasses import dataclass
from enum import StrEnum

PVC_MOUNT_ROOT = "/mnt/pvc"  # the claim of a pvc:// place is mounted at PVC_MOUNT_ROOT/CLAIM


class Scheme(StrEnum):
    """Where a place is. FILE is for local runs only."""

    HF = "hf"
    S3 = "s3"
    PVC = "pvc"
    FILE = "file"


@dataclass(frozen=True, kw_only=True)
class Place:
    """`container` is the bucket, the claim or the hub's owner ("" for file); `path` has no leading slash except for file."""

    scheme: Scheme
    container: str
    path: str


def parse_place(uri: str) -> Place:
    """Raises ValueError with the wanted form when `uri` is none of ours."""
    name, separator, rest = uri.partition("://")
    if not separator or name not in {scheme.value for scheme in Scheme}:
        raise ValueError(f"{uri!r} is not a place: wanted hf://OWNER/NAME, s3://BUCKET/PATH, pvc://CLAIM/PATH or file:///PATH")
    scheme = Scheme(name)
    if scheme is Scheme.FILE:
        if not rest.startswith("/"):
            raise ValueError(f"{uri!r}: a file place needs an absolute path, as in file:///data/rows.jsonl")
        return Place(scheme=scheme, container="", path=rest)
    container, _, path = rest.partition("/")
    if not container or (scheme in {Scheme.HF, Scheme.S3} and not path.strip("/")):
        wanted = {"hf": "hf://OWNER/NAME", "s3": "s3://BUCKET/PATH", "pvc": "pvc://CLAIM/PATH"}[scheme.value]
        raise ValueError(f"{uri!r} is incomplete: wanted {wanted}")
    return Place(scheme=scheme, container=container, path=path.strip("/"))
