"""From a place in the user's YAML to the store behind it. A hub and a ConfigMap are no stores: they cannot be written."""

from pathlib import Path
from random import Random

from finetune_agent.credentials import CredentialFiles
from finetune_agent.s3_store import S3Store
from finetune_agent.stores import FolderStore, ObjectStore, StoreRefused
from finetune_contract.config import StorageConfig
from finetune_contract.places import PVC_MOUNT_ROOT, Place, Scheme


def open_store(place: Place, *, storage: StorageConfig, credentials: CredentialFiles, random: Random) -> ObjectStore:
    """Raises StoreRefused for what is no store, and for a claim that is not mounted."""
    if place.scheme is Scheme.S3:
        return S3Store(bucket=place.container, prefix=place.path, storage=storage, credentials=credentials, random=random)
    return FolderStore(folder_of(place))


def folder_of(place: Place) -> Path:
    """Where a file:// or pvc:// place is mounted."""
    if place.scheme is Scheme.FILE:
        return Path(place.path)
    if place.scheme is Scheme.PVC:
        mount = Path(PVC_MOUNT_ROOT) / place.container
        if not mount.is_dir():
            raise StoreRefused(
                f"the claim {place.container} is not mounted at {mount}; check that a PersistentVolumeClaim of this name exists"
            )
        return mount / place.path
    raise StoreRefused(f"{place.scheme.value}:// places can only be read; wanted s3://, pvc:// or file://")
