"""Fixtures of the agent's tests: a coordinator in the test, members that are always ended."""

import contextlib
import uuid

import boto3
import pytest
from moto.server import ThreadedMotoServer
from tests.agent.builders import write_inputs
from tests.agent.members import FakeCoordinator, Member, write_channel, write_config

from finetune_contract.config import JobConfig


@pytest.fixture
async def coordinator():
    server = FakeCoordinator()
    await server.open()
    yield server
    await server.close()


@pytest.fixture
async def begin(tmp_path, coordinator):
    """`await begin(config, "a", "b")` starts one member a name."""
    members: list[Member] = []
    write_inputs(tmp_path)

    async def begin_members(config: JobConfig, *uids: str, **environment: str) -> list[Member]:
        config_path, channel = write_config(tmp_path, config), write_channel(tmp_path / "channel", coordinator.port)
        begun = [
            await Member(uid=uid, folder=tmp_path / uid, config_path=config_path, channel=channel, **environment).begin() for uid in uids
        ]
        members.extend(begun)
        return begun

    yield begin_members
    for member in members:
        with contextlib.suppress(ProcessLookupError):
            await member.end()


@pytest.fixture(scope="session")
def s3_endpoint():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_bucket(s3_endpoint):
    """A new bucket; its name."""
    client = boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="secret")
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    client.create_bucket(Bucket=name)
    return name
