"""What this member says of itself: who and where it is, whom it reaches, that it leaves. `hello` says all that it knows."""

import re
import socket
from collections.abc import Callable
from pathlib import Path
from random import Random

from finetune_agent.member.run_report import RunReport
from finetune_agent.settings import Settings
from finetune_contract.config import CONTRACT_VERSION, OLDEST_CONTRACT_VERSION
from finetune_contract.messages import Hello, Leaving, Probed
from finetune_contract.values import Value

_PORTS = (20000, 32000)  # below the ephemeral range: no outgoing connection takes one between choice and use


class Voice:
    """`send` may drop what is said; the state is kept, so the next hello makes up for it."""

    def __init__(self, *, settings: Settings, run: RunReport, send: Callable[[Value], None], random: Random) -> None:
        self._settings, self._run, self._send, self._random = settings, run, send, random
        self.probe_port: int | None = None
        self.term = 0
        self.leaving_seconds: Callable[[], float] | None = None

    def hello(self) -> Hello:
        run = self._run
        return Hello(
            member_uid=self._settings.member_uid,
            job_uid=run.uid,
            address=self._settings.address,
            port=find_port(self._random),
            probe_port=self.probe_port,
            num_devices=count_devices(Path("/dev")),
            contract_version=CONTRACT_VERSION,
            oldest_contract_version=OLDEST_CONTRACT_VERSION,
            phase=run.phase,
            formation=run.formation,
            term=self.term,
            snapshot=run.snapshot,
            commit=run.commit,
            inputs=run.inputs,
            progress=run.progress,
            failure=run.failure,
            failed_formation=run.failed_formation,
            output=run.output,
            leaving_seconds=None if self.leaving_seconds is None else self.leaving_seconds(),
            storage=run.storage,
        )

    def answer_probe(self, peer_uid: str, *, reachable: bool) -> None:
        self._send(Probed(peer_uid=peer_uid, reachable=reachable))

    def leave(self, seconds: float, seconds_left: Callable[[], float]) -> None:
        self.leaving_seconds = seconds_left
        self._send(Leaving(seconds=seconds))


def find_port(random: Random) -> int:
    """A TCP port that is free now, on all addresses."""
    while True:
        port = random.randrange(*_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port


def count_devices(devices: Path) -> int:
    """GPUs of this container, without a driver call."""
    return sum(1 for path in devices.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name))
