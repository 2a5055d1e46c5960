"""Where the harness keeps what it makes: one folder with a cache that outlives a run and a `run/` that does not."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
HOME_VARIABLE = "FINETUNE_E2E_HOME"


@dataclass(frozen=True)
class Home:
    """Paths only. Everything below `run` belongs to one running cluster; all other folders are caches."""

    root: Path

    @property
    def bin(self) -> Path:
        return self.root / "bin"

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def kubeconfig(self) -> Path:
        return self.run / "admin.kubeconfig"

    @property
    def pki(self) -> Path:
        return self.run / "pki"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One harness at a time: a second one waits here, because names of links and control groups are fixed."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def find_home() -> Home:
    """The folder named by FINETUNE_E2E_HOME, else one in the user's cache."""
    named = os.environ.get(HOME_VARIABLE)
    return Home(Path(named).resolve() if named else Path.home() / ".cache" / "finetune-e2e")
