"""An attacker without any right: many connections that say nothing, and many false tokens. Run inside a node, from addresses of its pods.

python -m e2e.floods HOST PORT SECONDS SOURCES    (SOURCES: addresses, separated by commas); prints what became of it, as JSON
"""

import asyncio
import base64
import json
import resource
import ssl
import sys
from collections import Counter
from contextlib import suppress
from itertools import cycle

NUM_SOCKETS = 10_000
OPENED_AT_ONCE = 1024
OPEN_AGAIN_SECONDS = 2.0  # after the operator has closed a connection
TOKENS_A_SECOND = 100
GIVE_UP_SECONDS = 10.0


def false_token(number: int) -> str:
    """Formed as Kubernetes forms them, by a key that nobody has."""
    parts = ({"alg": "RS256", "kid": f"unknown-{number}"}, {"aud": ["finetune-channel"], "exp": 4102444800})
    signed = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*signed, "AAAA"])


class Flood:
    def __init__(self, host: str, port: int, sources: tuple[str, ...]) -> None:
        self._host, self._port, self._sources = host, port, cycle(sources)
        self._opening = asyncio.Semaphore(OPENED_AT_ONCE)
        self._trust = ssl.create_default_context()
        self._trust.check_hostname, self._trust.verify_mode = False, ssl.CERT_NONE
        self.seen: Counter[str] = Counter()
        self.most_open = 0
        self._num_open = 0

    async def _connect(self, trust: ssl.SSLContext | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(GIVE_UP_SECONDS):
            return await asyncio.open_connection(self._host, self._port, ssl=trust, local_addr=(next(self._sources), 0))

    async def hold(self) -> None:
        """One connection that says nothing, opened again whenever it is closed."""
        while True:
            try:
                async with self._opening:
                    reader, writer = await self._connect(None)
                self.seen["sockets opened"] += 1
                self._num_open += 1
                self.most_open = max(self.most_open, self._num_open)
                with suppress(OSError):
                    await reader.read()
                self._num_open -= 1
                writer.close()
            except (OSError, TimeoutError):
                self.seen["sockets refused"] += 1
            await asyncio.sleep(OPEN_AGAIN_SECONDS)

    async def try_token(self, number: int) -> None:
        try:
            reader, writer = await self._connect(self._trust)
            lines = (
                "GET /channel HTTP/1.1",
                f"Host: {self._host}",
                "Connection: Upgrade",
                "Upgrade: websocket",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
                f"Authorization: Bearer {false_token(number)}",
            )
            writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
            async with asyncio.timeout(GIVE_UP_SECONDS):
                answer = await reader.readline()
            writer.close()
            self.seen[f"tokens answered {answer.decode(errors='replace').strip() or 'with nothing'}"] += 1
        except (OSError, TimeoutError):
            self.seen["tokens not taken"] += 1

    async def run(self, seconds: float) -> None:
        end = asyncio.get_running_loop().time() + seconds
        tasks = [asyncio.create_task(self.hold()) for _ in range(NUM_SOCKETS)]
        number = 0
        while asyncio.get_running_loop().time() < end:
            tasks.append(asyncio.create_task(self.try_token(number)))
            number += 1
            await asyncio.sleep(1 / TOKENS_A_SECOND)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.seen["tokens sent"] = number


async def main() -> None:
    host, port, seconds, sources = sys.argv[1:]
    flood = Flood(host, int(port), tuple(sources.split(",")))
    await flood.run(float(seconds))
    print(json.dumps(dict(flood.seen) | {"sockets open at once": flood.most_open}))


if __name__ == "__main__":
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    asyncio.run(main())
