"""Jobs of the local run whose commits and adapter go to a real S3 server, through a proxy that meddles."""

import asyncio
import contextlib
import hashlib
import signal
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

import boto3
import pytest
from tests.agent.object_stores import write_credentials
from tests.builders.machine import HANG_SECONDS
from tests.builders.ports import unused_port
from tests.faults.lives import Life, a_fault_document, sample_digest
from tests.faults.store_proxy import StoreProxy, proxied
from tests.local.runs import a_run

from finetune_contract.commits import parse_manifest
from finetune_operator.local.local_run import LocalRun
from finetune_operator.local.members import LocalMember
from finetune_operator.local.proc import processes_in


@pytest.fixture(scope="session")
async def s3_port():
    """An S3 server in a process of its own."""
    port = unused_port()
    quiet = asyncio.subprocess.DEVNULL
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port), stdout=quiet, stderr=quiet
    )
    try:
        async with asyncio.timeout(30):
            while not await is_listening(port):  # noqa: ASYNC110 - a process of its own sets no event
                await asyncio.sleep(0.05)
        yield port
    finally:
        server.send_signal(signal.SIGKILL)
        await server.wait()


async def is_listening(port: int) -> bool:
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        return True
    return False


@pytest.fixture
async def store(s3_port, tmp_path):
    """An empty bucket; the job sees it through `store.proxy`, the test without it."""
    async with proxied(s3_port) as proxy:
        yield S3(proxy=proxy, folder=tmp_path)


@dataclass(kw_only=True)
class S3:
    """`folder` is the test's."""

    proxy: StoreProxy
    folder: Path
    bucket: str = field(default_factory=lambda: f"bucket-{uuid.uuid4().hex[:8]}")

    def __post_init__(self) -> None:
        self.credentials = write_credentials(self.folder / "secret")
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        self._client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{self.proxy.upstream_port}", **keys)
        self._client.create_bucket(Bucket=self.bucket)

    def document(self, inputs: Path, **changes) -> dict:
        """A job whose results go here."""
        places = {"checkpoint": {"uri": f"s3://{self.bucket}/checkpoints"}, "output": {"uri": f"s3://{self.bucket}/adapter"}}
        for section, change in changes.items():
            places[section] = places.get(section, {}) | change
        document = a_fault_document(self.folder, inputs, **{name: change for name, change in places.items() if name != "model"})
        document["spec"]["model"] |= places.get("model", {})
        document["spec"]["storage"] = {"endpoint": f"http://127.0.0.1:{self.proxy.port}", "region": "us-east-1"}
        return document

    def keys(self, part: str) -> list[str]:
        """Of objects with `part` in their key; no job here has 1000 of them."""
        found = self._client.list_objects_v2(Bucket=self.bucket).get("Contents", ())
        return sorted(entry["Key"] for entry in found if part in entry["Key"])

    def manifests(self) -> list[str]:
        return self.keys("/commit/")

    def newest_step(self) -> int:
        """Of the newest commit."""
        return int(self.manifests()[-1].removesuffix(".json").rpartition("-")[2])

    def size_of_a_state(self) -> int | None:
        return next((len(self.get(state_of(key)) or b"") for key in self.manifests()), None)

    def get(self, key: str) -> bytes | None:
        try:
            return self._client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        except self._client.exceptions.NoSuchKey:
            return None

    def put(self, key: str, data: bytes | None) -> None:
        """None removes it."""
        if data is None:
            self._client.delete_object(Bucket=self.bucket, Key=key)
        else:
            self._client.put_object(Bucket=self.bucket, Key=key, Body=data)

    def check_commits(self) -> int:
        """How many there are; every one that has a manifest must verify."""
        num_found = 0
        for key in self.manifests():
            told = self.get(key)
            manifest = None if told is None else parse_manifest(told)
            state = self.get(state_of(key))
            if manifest is None or (state is None and self.get(key) is None):  # pruned between the listing and the reading
                continue
            assert state is not None, f"{key} has no state"
            assert (len(state), crc32(state)) == (manifest.num_bytes, manifest.crc32), key
            num_found += 1
        return num_found

    def download_adapter(self) -> None:
        for key in self.keys("adapter/"):
            target = self.folder / key
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.get(key))

    async def live(self, document: dict, disturb: Callable[[LocalRun], object], *, deadline_seconds: float = HANG_SECONDS) -> Life:
        """Run a job, disturb it, and wait for its end."""
        async with a_run(self.folder, document, FINETUNE_CREDENTIALS_DIR=str(self.credentials)) as run:
            await disturb(run)
            status = await run.wait_end(deadline_seconds=deadline_seconds)
            events = tuple(f"{event.reason}: {event.message}" for event in run.events)
            num_living = len(processes_in(run.folders.members))
        self.download_adapter()
        weights = self.folder / "adapter" / "adapter_model.safetensors"
        sha256 = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else ""
        return Life(status=status, adapter_sha256=sha256, sample_digest=sample_digest(self.folder), events=events, num_living=num_living)


def state_of(manifest_key: str) -> str:
    return manifest_key.replace("/commit/", "/state/").removesuffix(".json") + ".bin"


@dataclass
class Pauses:
    """The longest time between two tellings of progress, while training."""

    longest: float = 0.0

    async def watch(self, run: LocalRun) -> None:
        last_step, last_at = run.step, time.monotonic()
        while run.status.phase in {"Training", "Evaluating"}:
            if run.step != last_step:
                self.longest = max(self.longest, time.monotonic() - last_at)
                last_step, last_at = run.step, time.monotonic()
            await asyncio.sleep(0.02)


def assert_undisturbed(life: Life, undisturbed: Life) -> None:
    assert life.status.is_true("Complete"), (life.status.conditions, life.events)
    assert life.adapter_sha256 == undisturbed.adapter_sha256
    assert life.sample_digest == undisturbed.sample_digest is not None
    assert life.num_living == 0


def saver_of(run: LocalRun) -> LocalMember:
    """The member with node rank 0: it saves and restores."""
    serial = run.status.formation.serials[0]
    return next(member for member in run.members if member.serial == serial)


def reasons(life: Life) -> list[str]:
    return [event.partition(":")[0] for event in life.events]


def checkpointed(run: LocalRun) -> tuple[str, str]:
    """Status and reason of the condition."""
    condition = run.status.condition("Checkpointed")
    return ("", "") if condition is None else (condition.status, condition.reason)


async def reach_checkpointed(run: LocalRun, *wanted: str, deadline_seconds: float = HANG_SECONDS) -> str:
    """Wait for a status and a reason of the condition; its message."""
    what = f"Checkpointed {wanted}"
    await run.wait_until(what, lambda run: checkpointed(run) == wanted, deadline_seconds=deadline_seconds)
    return run.status.condition("Checkpointed").message
