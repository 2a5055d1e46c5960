"""Real agents as processes and a coordinator that lives in the test: what an agent says is kept, orders are sent by hand."""

import asyncio
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from aiohttp import WSMsgType, web
from tests.builders.machine import HANG_SECONDS

from finetune_agent.processes.proc_tree import die_with_parent
from finetune_contract.config import JobConfig
from finetune_contract.messages import Hello, MemberPhase, PhaseChanged, parse_from_agent
from finetune_contract.orders import Peer, Start
from finetune_contract.values import render_message

HERE = Path(__file__).parent


class FakeCoordinator:
    """`said[uid]` holds all messages of one member, in order."""

    def __init__(self) -> None:
        self.said: dict[str, list] = {}
        self.tokens: list[str] = []
        self.sockets: dict[str, web.WebSocketResponse] = {}
        self.refuses = False
        self._changed = asyncio.Condition()
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def open(self, port: int = 0) -> None:
        app = web.Application()
        app.router.add_get("/channel", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        for socket in tuple(self.sockets.values()):
            await socket.close()
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        self.tokens.append(request.headers["Authorization"].removeprefix("Bearer "))
        if self.refuses:
            async with self._changed:
                self._changed.notify_all()
            raise web.HTTPUnauthorized
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        uid = ""
        async for frame in socket:
            if frame.type is WSMsgType.TEXT:
                message = parse_from_agent(frame.data)
                if isinstance(message, Hello):
                    uid = message.member_uid
                    self.sockets[uid] = socket
                self.said.setdefault(uid, []).append(message)
                async with self._changed:
                    self._changed.notify_all()
        return socket

    async def order(self, uid: str, order) -> None:
        await self.sockets[uid].send_str(render_message(order))

    async def until(self, is_so: Callable[[], object], seconds: float = HANG_SECONDS) -> None:
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(is_so), seconds)

    def heard(self, uid: str, kind: type) -> list:
        return [message for message in self.said.get(uid, []) if isinstance(message, kind)]

    async def until_phase(
        self, uid: str, phase: MemberPhase, formation: int | None = None, seconds: float = HANG_SECONDS
    ) -> PhaseChanged | Hello:
        def found() -> list:
            said = [m for m in self.said.get(uid, []) if isinstance(m, PhaseChanged | Hello)]
            return [m for m in said if m.phase is phase and formation in {None, m.formation}]

        await self.until(found, seconds)
        return found()[-1]


class Member:
    """One agent process; `folder` holds its files."""

    def __init__(self, *, uid: str, folder: Path, config_path: Path, channel: Path, **environment: str) -> None:
        self.uid, self.folder = uid, folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "token").write_text(f"token-of-{uid}")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FINETUNE_"))}
        self.environment = kept | {
            "FINETUNE_CONFIG": str(config_path),
            "FINETUNE_CHANNEL": str(channel),
            "FINETUNE_TOKEN": str(folder / "token"),
            "FINETUNE_MEMBER_UID": uid,
            "FINETUNE_MEMBER_NAME": f"member-{uid}",
            "FINETUNE_ADDRESS": "127.0.0.1",
            "FINETUNE_WORK_DIR": str(folder / "work"),
            "FINETUNE_STATE_DIR": str(folder / "state"),
            "FINETUNE_TERMINATION_LOG": str(folder / "last-words"),
            "FINETUNE_GRACE_SECONDS": "5",
            "FINETUNE_WORKER": "fake_trainer:run_rank",
            "PYTHONPATH": str(HERE),
        }
        self.environment |= environment
        self.child: asyncio.subprocess.Process | None = None

    async def begin(self) -> "Member":
        with (self.folder / "log").open("ab") as log:
            self.child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "finetune_agent",
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=partial(die_with_parent, os.getpid()),  # also when the tests are ended by force
            )
        return self

    @property
    def pid(self) -> int:
        return self.child.pid

    async def end(self) -> int:
        if self.child.returncode is None:
            self.child.kill()
        return await self.child.wait()


def write_channel(folder: Path, port: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "url").write_text(f"ws://127.0.0.1:{port}/channel\n")
    return folder


def write_config(folder: Path, config: JobConfig) -> Path:
    path = folder / "config.json"
    path.write_text(config.model_dump_json())
    return path


def a_start(members: list[Member], coordinator: FakeCoordinator, *, formation: int, node_rank: int, term: int = 1, **changes) -> Start:
    hellos = [coordinator.heard(member.uid, Hello)[-1] for member in members]
    peers = tuple(Peer(member_uid=hello.member_uid, name=hello.member_uid, address=hello.address) for hello in hellos)
    values = {
        "term": term,
        "formation": formation,
        "node_rank": node_rank,
        "peers": peers,
        "master_address": hellos[0].address,
        "master_port": hellos[0].port + formation,
        "resume": None,
        "resume_node_rank": None,
        "inputs": None,
    }
    return Start(**(values | changes))


async def start_all(members: list[Member], coordinator: FakeCoordinator, *, formation: int, **changes) -> None:
    for node_rank, member in enumerate(members):
        await coordinator.order(member.uid, a_start(members, coordinator, formation=formation, node_rank=node_rank, **changes))
