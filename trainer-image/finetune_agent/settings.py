"""The environment of a member as one frozen value, read here and nowhere else. Holds no secret, only where secrets lie."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_WORKER = "finetune_trainer.worker:run_rank"


class SettingMissing(Exception):
    """A variable that a member cannot do without is not set."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not set: a member is started by the operator or by `finetune run`, which set it")


@dataclass(frozen=True, kw_only=True)
class Reach:
    """What places of a job may lead to: `files`, whether file:// may; `allowed_endpoints`, link-local hosts that the platform lists."""

    files: bool = True
    allowed_endpoints: frozenset[str] = frozenset()


LOCAL = Reach()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`credentials_folder`, `tracking_folder` None: the standard chains of the libraries. `worker` is MODULE:FUNCTION."""

    config_path: Path
    channel_folder: Path
    token_file: Path
    member_uid: str
    member_name: str
    address: str
    work_folder: Path
    state_folder: Path
    credentials_folder: Path | None
    tracking_folder: Path | None
    termination_log: Path | None
    grace_seconds: float
    worker: str
    reach: Reach

    @property
    def cache_folder(self) -> Path:
        return self.work_folder / "cache"

    @property
    def tmp_folder(self) -> Path:
        return self.work_folder / "tmp"

    @property
    def output_folder(self) -> Path:
        return self.work_folder / "output"


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Raises SettingMissing by name."""

    def wanted(name: str) -> str:
        if not environment.get(name):
            raise SettingMissing(name)
        return environment[name]

    def optional_path(name: str) -> Path | None:
        return Path(environment[name]) if environment.get(name) else None

    return Settings(
        config_path=Path(wanted("FINETUNE_CONFIG")),
        channel_folder=Path(wanted("FINETUNE_CHANNEL")),
        token_file=Path(wanted("FINETUNE_TOKEN")),
        member_uid=wanted("FINETUNE_MEMBER_UID"),
        member_name=wanted("FINETUNE_MEMBER_NAME"),
        address=wanted("FINETUNE_ADDRESS"),
        work_folder=Path(wanted("FINETUNE_WORK_DIR")),
        state_folder=Path(wanted("FINETUNE_STATE_DIR")),
        credentials_folder=optional_path("FINETUNE_CREDENTIALS_DIR"),
        tracking_folder=optional_path("FINETUNE_TRACKING_DIR"),
        termination_log=optional_path("FINETUNE_TERMINATION_LOG"),
        grace_seconds=float(environment.get("FINETUNE_GRACE_SECONDS") or 60),
        worker=environment.get("FINETUNE_WORKER") or DEFAULT_WORKER,
        reach=Reach(
            files=environment.get("FINETUNE_FILE_PLACES") != "refused",  # the operator's pods say so
            allowed_endpoints=frozenset(environment.get("FINETUNE_ALLOWED_ENDPOINTS", "").lower().replace(",", " ").split()),
        ),
    )
