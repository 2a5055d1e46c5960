"""An agent and an operator of the contract before: their messages as they sent them, their schemas as they read ours.

`tests/golden/contract-N` was written by the code of contract N. It never changes, and goes when N is no longer understood.
"""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.contract.absurd import FAILURE, FINISHED, HELLO, PROBED, PROGRESS

from finetune_contract import orders
from finetune_contract.config import CONTRACT_VERSION, OLDEST_CONTRACT_VERSION
from finetune_contract.messages import parse_from_agent
from finetune_contract.orders import Overrides, Peer
from finetune_contract.state import InputDigests, StateId
from finetune_contract.values import render_message
from finetune_operator.api.render_config import render_config
from finetune_operator.api.rules import parse_job
from finetune_operator.api.yaml_reader import read_documents

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
BEFORE = GOLDEN / f"contract-{CONTRACT_VERSION - 1}"
FRAMES = (BEFORE / "from-agent.jsonl").read_text().splitlines()
# Reasons of warnings are ours since contract 2: one that we do not know is told under a reason that we do.
UNKNOWN_REASON = {"reason": ("ANewWarning", "MemberWarning")}
STATE = StateId(formation=3, step=120)
PEER = Peer(member_uid="0b7c9c1e-3f55-4a2b-9b1b-6f2f0d2c1a11", name="support-bot-1", address="10.1.2.3")
START = orders.Start(term=7, formation=4, node_rank=0, peers=(PEER,), master_address="10.1.2.3", master_port=40001)
ORDERS = (
    START,
    START.model_copy(
        update={
            "resume": STATE,
            "resume_node_rank": 0,
            "inputs": InputDigests(model="a" * 64, dataset="b" * 64, model_revision="main"),
            "overrides": Overrides(pack_tokens=512, gradient_checkpointing=True),
            "store_secret": "c" * 64,
            "run": "7d0a2f1c-9a41-4c0e-8a57-0d6a8f1c2b22",
        }
    ),
    orders.Stop(term=7, formation=4, why="suspend", save=True, deadline_seconds=60.0),
    orders.Commit(term=7, deadline_seconds=30.0, run="ab12cd"),
    orders.Probe(term=7, peer_uid=PEER.member_uid, address="fd00::1"),
    orders.Inspect(term=7),
    orders.Exit(term=7, why="complete"),
)


def schema(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads((BEFORE / f"{name}.schema.json").read_text()))


def is_kept(sent: Any, got: Any) -> bool:
    """Whether all that was sent is still there; more may be."""
    if isinstance(sent, dict):
        return all(
            name in got and (is_kept(value, got[name]) or (value, got[name]) == UNKNOWN_REASON.get(name)) for name, value in sent.items()
        )
    return bool(sent == got)


def test_both_contracts_are_there_as_long_as_the_one_before_is_understood() -> None:
    assert OLDEST_CONTRACT_VERSION == CONTRACT_VERSION - 1
    assert {json.loads(frame)["type"] for frame in FRAMES} == set(schema("from-agent").schema["discriminator"]["mapping"])
    assert {order.type for order in ORDERS} == set(schema("order").schema["discriminator"]["mapping"])


@pytest.mark.parametrize("frame", FRAMES)
def test_what_an_agent_of_the_contract_before_says_is_taken_whole(frame: str) -> None:
    assert is_kept(json.loads(frame), json.loads(render_message(parse_from_agent(frame))))


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.type)
def test_an_agent_of_the_contract_before_reads_our_orders(order: Any) -> None:
    schema("order").validate(json.loads(render_message(order)))


@pytest.mark.parametrize(
    "message",
    [HELLO, FAILURE, FINISHED, PROBED, PROGRESS, PROGRESS | {"run": "ab12cd"}, *map(json.loads, FRAMES)],
    ids=lambda said: said["type"],
)
def test_an_operator_of_the_contract_before_reads_our_agents(message: dict[str, Any]) -> None:
    schema("from-agent").validate(json.loads(render_message(parse_from_agent(json.dumps(message)))))


def test_an_agent_of_the_contract_before_reads_our_configuration() -> None:
    job = parse_job(read_documents((GOLDEN / "good.yaml").read_text())[0].value)
    schema("config").validate(json.loads(render_config(job).model_dump_json()))
