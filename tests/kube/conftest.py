"""An API server for each test that asks for one."""

from collections.abc import AsyncIterator

import pytest
from tests.kube.api_server import ApiServer


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with ApiServer() as server:
        yield server
