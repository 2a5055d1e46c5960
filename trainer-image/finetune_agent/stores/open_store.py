"""From a place in the user's YAML to the store behind it. A hub and a ConfigMap are no stores: they cannot be written."""

from pathlib import Path
from random import Random

from finetune_agent.settings import LOCAL, Reach
from finetune_agent.stores.credentials import CredentialFiles
from finetune_agent.stores.object_store import FolderStore, ObjectStore, StoreRefused
from finetune_agent.stores.s3_store import S3Store
from finetune_contract.config import StorageConfig
from finetune_contract.inside import resolve_inside
from finetune_contract.keys import LeavesFolder
from finetune_contract.places import PVC_MOUNT_ROOT, Place, Scheme


def open_store(place: Place, *, storage: StorageConfig, credentials: CredentialFiles, random: Random, reach: Reach = LOCAL) -> ObjectStore:
    """Raises StoreRefused for what is no store, for a claim that is not mounted, and for what `reach` does not allow."""
    if place.scheme is Scheme.S3:
        return S3Store(
            bucket=place.container,
            prefix=place.path,
            storage=storage,
            credentials=credentials,
            random=random,
            allowed_endpoints=reach.allowed_endpoints,
        )
    return FolderStore(folder_of(place, reach), inside=claim_of(place))


def folder_of(place: Place, reach: Reach = LOCAL) -> Path:
    """Where a file:// or pvc:// place is mounted. Raises StoreRefused, also for links that lead out of the claim."""
    if place.scheme is Scheme.FILE:
        if not reach.files:
            raise StoreRefused("file:// is for local runs (`finetune run`); wanted s3://, pvc:// or hf://")
        return Path(place.path)
    mount = claim_of(place)
    if mount is None:
        raise StoreRefused(f"{place.scheme.value}:// places can only be read; wanted s3://, pvc:// or file://")
    if not mount.is_dir():
        raise StoreRefused(f"the claim {place.container} is not mounted at {mount}; check that a PersistentVolumeClaim of this name exists")
    return check_inside(mount, mount / place.path)


def claim_of(place: Place) -> Path | None:
    """What no symbolic link of this place may lead out of; None for a file:// place, which is the user's own machine."""
    return Path(PVC_MOUNT_ROOT) / place.container if place.scheme is Scheme.PVC else None


def check_inside(root: Path, path: Path) -> Path:
    """`path` as it was named. Raises StoreRefused where a symbolic link leads out of `root`."""
    try:
        resolve_inside(root, path)
    except LeavesFolder as error:
        raise StoreRefused(str(error)) from error
    return path
