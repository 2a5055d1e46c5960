"""Every run of tests tells failures at once, looks again where the machine stood still, and ends in time."""

import os
import socket
from collections.abc import Callable

import pytest
from tests import plugins


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    plugins.register(config)


@pytest.fixture(scope="session")
def unused_tcp_port_factory() -> Callable[[], int]:
    """Ports that nobody else takes until they are listened on: below those that the kernel gives out, and each worker has its own."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = iter(range(20_000 + 1000 * (worker % 12), 21_000 + 1000 * (worker % 12)))

    def take() -> int:
        for port in ports:
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", port)) != 0:
                    return port
        raise AssertionError("no port is left")

    return take


@pytest.fixture
def unused_tcp_port(unused_tcp_port_factory: Callable[[], int]) -> int:
    return unused_tcp_port_factory()
