"""Fixtures of the ground: one cluster for all tests of a session, its S3 store and Prometheus, kubectl and fresh namespaces.

What stands on it, the installed product, is in fixtures.py.
"""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from tests import plugins
from tests.faults.ledger import figures, pytest_runtest_makereport

from e2e.faults import undisturbed
from e2e.fixtures import PrometheusApi, free_cpu, inputs, kill_worker, module_team, product, session_team, team
from e2e.harness.cluster import Cluster
from e2e.harness.home import find_home
from e2e.harness.images import Images
from e2e.harness.provider import Provider
from e2e.harness.services import S3Settings
from e2e.harness.session import Session, running_session
from e2e.harness.toolchain import ensure_helm
from e2e.product import Kubectl

__all__ = [
    "figures",
    "free_cpu",
    "inputs",
    "kill_worker",
    "module_team",
    "product",
    "pytest_runtest_makereport",
    "session_team",
    "team",
    "undisturbed",
]
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    plugins.register(config)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--keep-cluster", action="store_true", help="use a cluster that runs, and leave it running at the end")
    parser.addoption("--repeats", type=int, default=10, help="of each row of a benchmark")
    parser.addoption("--minutes", type=float, default=20.0, help="of random faults (goodput.py)")
    parser.addoption("--seed", type=int, default=1, help="of random faults; the same seed does the same faults at the same moments")


@pytest.fixture(scope="session")
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    """Everything, brought up at the first test that needs it and taken away at the end, also when tests fail."""
    with running_session(find_home(), keep=bool(request.config.getoption("--keep-cluster"))) as running:
        yield running


@pytest.fixture(scope="session")
def cluster(session: Session) -> Provider:
    """The cluster; `kubeconfig` is an administrator's."""
    return session.cluster


@pytest.fixture(scope="session")
def nodes_under_control(cluster: Provider) -> Cluster:
    """The cluster where nodes can be cut off, stopped and entered; other clusters skip the test."""
    if not isinstance(cluster, Cluster):
        pytest.skip("needs the self-built cluster")
    return cluster


@pytest.fixture(scope="session")
def images(session: Session) -> Images:
    """`operator` and `trainer`, NAME:TAG, present on every node."""
    return session.images


@pytest.fixture(scope="session")
def helm() -> Path:
    """Helm's binary. Needs no cluster."""
    return ensure_helm(find_home())


@pytest.fixture(scope="session")
def kubectl(cluster: Provider) -> Kubectl:
    return Kubectl(kubeconfig=cluster.kubeconfig)


@pytest.fixture(scope="session")
def s3_settings(session: Session) -> S3Settings:
    """Endpoint and keys; pods reach the same endpoint."""
    return session.s3


@pytest.fixture(scope="session")
def s3(s3_settings: S3Settings) -> Any:
    """A boto3 client of the store."""
    return boto3.client(
        "s3",
        endpoint_url=s3_settings.endpoint,
        aws_access_key_id=s3_settings.access_key,
        aws_secret_access_key=s3_settings.secret_key,
        region_name=s3_settings.region,
        config=Config(signature_version="s3v4"),  # else boto3 signs URLs in a way that stores refuse today
    )


@pytest.fixture(scope="session")
def prometheus(session: Session) -> PrometheusApi:
    return PrometheusApi(session.prometheus_url)


@pytest.fixture
def namespace(kubectl: Kubectl) -> Iterator[Kubectl]:
    """kubectl within a fresh namespace that refuses pods that are not restricted."""
    name = f"test-{uuid.uuid4().hex[:6]}"
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}})
    yield kubectl.within(name)
    kubectl.run("delete", "namespace", name, "--wait=false", check=False)
