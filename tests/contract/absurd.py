"""Messages that no honest agent says, each with one absurd value, and those that people may well say."""

from typing import Any

SHA = "ab" * 32
HELLO: dict[str, Any] = {
    "type": "hello",
    "member_uid": "pod-1",
    "job_uid": "ab12cd",
    "address": "10.0.0.1",
    "port": 29500,
    "num_devices": 1,
    "contract_version": 1,
    "oldest_contract_version": 1,
    "phase": "training",
    "formation": 1,
    "term": 1,
}
PROGRESS: dict[str, Any] = {
    "type": "progress",
    "formation": 1,
    "step": 20,
    "total_steps": 100,
    "epoch": 0.1,
    "loss": 1.5,
    "learning_rate": 1e-4,
    "grad_norm": 1.0,
    "tokens_total": 1000,
    "tokens_per_second": 100.0,
    "step_seconds": 1.0,
}
SLOW = {"rank": 0, "seconds": 1.0, "others_seconds": 1.0, "step_share": 0.5}
COMMITTED: dict[str, Any] = {
    "type": "committed",
    "state": {"formation": 1, "step": 20},
    "key": "ab12cd/commit/f000001-000000020.json",
    "num_bytes": 1,
    "seconds": 1.0,
}
OUTPUT: dict[str, Any] = {"uri": "s3://out/adapter", "sha256": SHA, "num_bytes": 1, "step": 100}
FINISHED: dict[str, Any] = {"type": "phase", "phase": "finished", "formation": 1, "output": OUTPUT}
FAILURE: dict[str, Any] = {"type": "failure", "formation": 1, "report": {"failure_class": "NotFinite", "message": "nan", "rank": 0}}
PROBED: dict[str, Any] = {"type": "probed", "peer_uid": "pod-2", "reachable": False}
HONEST = (HELLO, PROGRESS, COMMITTED, FINISHED, FAILURE, PROBED)

NAN, INFINITE = float("nan"), float("inf")

# Each must be refused whole.
ABSURD: dict[str, dict[str, Any]] = {
    "loss is NaN": PROGRESS | {"loss": NAN},
    "loss is infinite": PROGRESS | {"loss": INFINITE},
    "grad norm is NaN": PROGRESS | {"grad_norm": NAN},
    "learning rate is infinite": PROGRESS | {"learning_rate": -INFINITE},
    "step seconds are NaN": PROGRESS | {"step_seconds": NAN},
    "step seconds are infinite": PROGRESS | {"step_seconds": INFINITE},
    "step seconds are 1e308": PROGRESS | {"step_seconds": 1e308},
    "step seconds are negative": PROGRESS | {"step_seconds": -1.0},
    "epoch is 1e308": PROGRESS | {"epoch": 1e308},
    "step is 2^63": PROGRESS | {"step": 2**63},
    "step is negative": PROGRESS | {"step": -1},
    "total steps are 10^400": PROGRESS | {"total_steps": 10**400},
    "tokens are 2^53": PROGRESS | {"tokens_total": 2**53},
    "slow rank is -99": PROGRESS | {"slowest": SLOW | {"rank": -99}},
    "slow seconds are NaN": PROGRESS | {"slowest": SLOW | {"seconds": NAN}},
    "formation is 10^20": PROGRESS | {"formation": 10**20},
    "committed step is 2^63": COMMITTED | {"state": {"formation": 1, "step": 2**63}},
    "committed bytes are 2^63": COMMITTED | {"num_bytes": 2**63},
    "key has 2000 characters": COMMITTED | {"key": "k" * 2000},
    "key climbs": COMMITTED | {"key": "../../../etc/passwd"},
    "seconds are infinite": COMMITTED | {"seconds": INFINITE},
    "digest has 65 characters": FINISHED | {"output": OUTPUT | {"sha256": "a" * 65}},
    "digest is none": FINISHED | {"output": OUTPUT | {"sha256": "not a digest"}},
    "place runs a script": FINISHED | {"output": OUTPUT | {"uri": "javascript:alert(1)"}},
    "bytes are negative": FINISHED | {"output": OUTPUT | {"num_bytes": -1}},
    "rank is -99": FAILURE | {"report": {"failure_class": "NotFinite", "message": "nan", "rank": -99}},
    "exit code is 2^40": FAILURE | {"report": {"failure_class": "Internal", "message": "", "exit_code": 2**40}},
    "uid has a megabyte": PROBED | {"peer_uid": "u" * 1_000_000},
    "uid has a newline": PROBED | {"peer_uid": "pod-2\n"},
    "hello from formation 10^20": HELLO | {"formation": 10**20},
    "hello from term 2^63": HELLO | {"term": 2**63},
    "hello with port 0": HELLO | {"port": 0},
    "hello leaves in 1e300 seconds": HELLO | {"leaving_seconds": 1e300},
    "hello with an address of two lines": HELLO | {"address": "10.0.0.1\nHost: x"},
    "hello of contract -1": HELLO | {"contract_version": -1},
}

# Text is cut, and a word that nobody knows has a meaning: none of these is a reason to lose the message.
ODD: dict[str, dict[str, Any]] = {
    "evaluation is NaN": PROGRESS | {"eval_loss": NAN},
    "message has a megabyte": {"type": "warned", "reason": "RowsCut", "message": "m" * 1_000_000},
    "reason is made up": {"type": "warned", "reason": "ThisIsMine" * 10, "message": "m"},
    "storage reason is made up": {"type": "storage", "problem": {"reason": "Mine", "message": "\x1b[31mred\x00"}},
    "class is of a newer contract": FAILURE | {"report": {"failure_class": "Novel", "message": "m", "traceback_end": "t" * 10_000}},
    "unknown field": PROGRESS | {"reward_margin": 1.0},
}
