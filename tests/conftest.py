"""Every run of tests tells failures at once, looks again where the machine stood still, and ends in time."""

from collections.abc import Callable

import pytest
from tests import plugins
from tests.builders.ports import unused_port


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    plugins.register(config)


@pytest.fixture(scope="session")
def unused_tcp_port_factory() -> Callable[[], int]:
    return unused_port


@pytest.fixture
def unused_tcp_port() -> int:
    return unused_port()
