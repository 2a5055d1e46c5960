"""Every run of tests tells failures at once, looks again where the machine stood still, and ends in time."""

import pytest
from tests import plugins


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    plugins.register(config)
