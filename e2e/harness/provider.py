"""Which cluster the tests run on: kind where a Docker engine answers, else the self-built one."""

from pathlib import Path
from typing import Protocol

from e2e.harness.cluster import Cluster
from e2e.harness.home import Home
from e2e.harness.images import Images
from e2e.harness.kind import KindCluster
from e2e.harness.processes import Processes
from e2e.harness.shell import succeeds


class Provider(Protocol):
    """What the tests need of a cluster, whoever made it."""

    @property
    def kubeconfig(self) -> Path:
        """An administrator's."""

    @property
    def host_address(self) -> str:
        """Where pods reach servers of this machine."""

    @property
    def processes(self) -> Processes:
        """Daemons beside the cluster; they end with it."""

    def up(self) -> Images:
        """A new cluster with our images in it, whatever an earlier run left."""

    def down(self) -> None:
        """Remove all of it; safe at any time."""

    def is_up(self) -> bool:
        """A cluster of an earlier, kept run can be used."""

    def refresh_images(self) -> Images:
        """Our images of the present code, in a cluster that runs already."""

    def load_image(self, archive: Path) -> None:
        """Put one more image, as a tar, on every node."""


def choose_provider(home: Home) -> Provider:
    return KindCluster(home) if succeeds("docker", "info") else Cluster(home)
