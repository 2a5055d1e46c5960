"""Forks the ranks of formations out of one process that has done its imports, as the zygote does; one JSON line in, one out.

Run by `formations.py` as a child: the process of the tests itself has threads and must not fork.
"""

import json
import os
import signal
import sys

from tests.builders.ports import unused_port

from finetune_contract.run_order import RunOrder
from finetune_trainer.worker import run_rank


def serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        answer = run(request["orders"], request["slots"], request["events"], request["kill_at"])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def run(orders: list[str], slots: list[str], events_file: str, kill_at: int | None) -> list[int]:
    """Wait statuses by rank. Each order is one member. At step `kill_at` all ranks are ended by SIGKILL, as a lost node is."""
    port = unused_port()
    read_fd, write_fd = os.pipe()
    pids = []
    for node_rank, (text, slot) in enumerate(zip(orders, slots, strict=True)):
        order = RunOrder.model_validate_json(text)
        order = order.model_copy(update={"events_fd": write_fd, "slots_fd": os.open(slot, os.O_RDWR | os.O_CREAT)})
        for local_rank in range(order.processes_per_node):
            pid = os.fork()
            if pid == 0:
                become_rank(order, node_rank * order.processes_per_node + local_rank, local_rank, port)
            pids.append(pid)
    os.close(write_fd)
    relay(read_fd, events_file, kill_at, pids)
    return [os.waitpid(pid, 0)[1] for pid in pids]


def become_rank(order: RunOrder, rank: int, local_rank: int, port: int) -> None:
    world_size = order.num_nodes * order.processes_per_node
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(local_rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(order.processes_per_node),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    code = 0
    try:
        run_rank(order)
    except SystemExit as end:
        code = int(end.code or 0)
    sys.stderr.flush()
    os._exit(code)


def relay(read_fd: int, events_file: str, kill_at: int | None, pids: list[int]) -> None:
    """Until the last rank has closed the pipe; a failed rank ends the others, as an agent would."""
    with os.fdopen(read_fd) as events, open(events_file, "w") as file:
        for line in events:
            file.write(line)
            event = json.loads(line)
            is_time = event["type"] == "progress" and event["progress"]["step"] == kill_at
            if is_time or event["type"] == "failure":
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    serve()
