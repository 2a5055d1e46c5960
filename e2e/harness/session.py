"""Everything a test session needs, as one thing that is brought up and taken away: cluster, images, S3 and Prometheus."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e.harness.home import Home
from e2e.harness.images import Images
from e2e.harness.provider import Provider, choose_provider
from e2e.harness.services import PROMETHEUS_URL, S3Settings, Services
from e2e.harness.shell import phase


@dataclass(frozen=True, kw_only=True)
class Session:
    """A running cluster and what stands beside it."""

    cluster: Provider
    images: Images
    s3: S3Settings
    prometheus_url: str

    @property
    def kubeconfig(self) -> Path:
        return self.cluster.kubeconfig


def bring_up(home: Home) -> Session:
    """A new session; one that still runs is taken away first."""
    cluster = choose_provider(home)
    images = cluster.up()
    services = Services(home=home, processes=cluster.processes, host_address=cluster.host_address)
    with phase("S3 and Prometheus"):
        s3, prometheus_url = services.start_s3(), services.start_prometheus()
    return Session(cluster=cluster, images=images, s3=s3, prometheus_url=prometheus_url)


def find_running(home: Home) -> Session | None:
    """The session that an earlier run kept, if it still answers, with images of the present code."""
    cluster = choose_provider(home)
    if not cluster.is_up():
        return None
    services = Services(home=home, processes=cluster.processes, host_address=cluster.host_address)
    if not services.are_up():
        return None
    images = cluster.refresh_images()
    return Session(cluster=cluster, images=images, s3=services.s3(), prometheus_url=PROMETHEUS_URL)


@contextmanager
def running_session(home: Home, *, keep: bool) -> Iterator[Session]:
    """A session for the time of a block. `keep`: use one that runs, and leave it running."""
    with home.locked():
        try:
            yield (find_running(home) if keep else None) or bring_up(home)
        finally:
            if not keep:
                with phase("down"):
                    choose_provider(home).down()
