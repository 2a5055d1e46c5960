"""The channel, downwards: what the coordinator orders. An order of an older term or formation than was seen is refused.

Orders about a run name it by the uid of its job; without a name, as contract 1 sends them, they are about the job of the member.
"""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from finetune_contract.bounds import MAX_PEERS, Address, Count, MessageText, Name, Port, Rank, Seconds, Uid
from finetune_contract.state import InputDigests, StateId
from finetune_contract.values import Value

MAX_SECRET_CHARS = 128


class Peer(Value):
    """A member of a formation; its index in `Start.peers` is its node rank."""

    member_uid: Uid
    name: Name
    address: Address


class Overrides(Value):
    """What the operator changed on the way (the out-of-memory ladder); kept in status and sent with every start."""

    pack_tokens: Count | None = None
    gradient_checkpointing: bool | None = None


class Start(Value):
    """Train as `node_rank` of `formation`; implies stop of every older formation. Node rank 0's store is at master_address:port."""

    type: Literal["start"] = "start"
    term: Count
    run: Uid | None = None
    formation: Count
    node_rank: Rank
    peers: tuple[Peer, ...] = Field(max_length=MAX_PEERS)
    master_address: Address
    master_port: Port
    resume: StateId | None = None  # newest state the coordinator knows of; None = look into the store
    resume_node_rank: Rank | None = None  # member that holds it as a snapshot; None = it is a commit
    inputs: InputDigests | None = None  # pinned digests; a member with others refuses by name
    overrides: Overrides = Overrides()
    store_secret: str | None = Field(default=None, max_length=MAX_SECRET_CHARS, repr=False)  # of the formation; None: contract 1


class Stop(Value):
    """End the workers of `formation`. With `save`: commit the newest snapshot before answering STOPPED (suspend)."""

    type: Literal["stop"] = "stop"
    term: Count
    run: Uid | None = None
    formation: Count
    why: MessageText
    save: bool = False
    deadline_seconds: Seconds = 30.0


class Commit(Value):
    """Upload the newest snapshot now."""

    type: Literal["commit"] = "commit"
    term: Count
    run: Uid | None = None
    deadline_seconds: Seconds


class Probe(Value):
    """Say whether this peer's agent can be reached."""

    type: Literal["probe"] = "probe"
    term: Count
    peer_uid: Uid
    address: Address


class Inspect(Value):
    """Write the stacks of all workers to the log."""

    type: Literal["inspect"] = "inspect"
    term: Count


class Exit(Value):
    """End the agent: with 0 after FINISHED, else with 143."""

    type: Literal["exit"] = "exit"
    term: Count
    why: MessageText


Order = Annotated[Start | Stop | Commit | Probe | Inspect | Exit, Field(discriminator="type")]
_ORDER: TypeAdapter[Order] = TypeAdapter(Order, config=ConfigDict(hide_input_in_errors=True))  # an order holds a secret


def parse_order(frame: str | bytes) -> Order:
    """Raises pydantic.ValidationError for a frame that is not an order of ours."""
    return _ORDER.validate_json(frame)
