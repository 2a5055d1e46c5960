"""Ports that nobody else takes until they are listened on: below those that the kernel gives out; each worker of a run has its own."""

import os
import random
import socket

_FIRST, _OF_A_WORKER, _NUM_WORKERS = 12_000, 1_500, 12


def unused_port() -> int:
    """Of this machine's loopback. Raises AssertionError if none is left."""
    first = _FIRST + _OF_A_WORKER * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _NUM_WORKERS)
    for port in random.sample(range(first, first + _OF_A_WORKER), 100):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("no port is left")
