"""How often an address may connect: accepting a TLS connection costs about 2 ms of processor time, whoever calls.

Strangers share one budget, so that all of them together cost no more than a part of a core, and addresses that have proved who they
are share another. Each address has a few calls of its own before that: a probe, the API server or a member that comes back lives on them.
Pure: moments are arguments, in seconds.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from finetune_operator.coordinator.pace import Bucket

_OF_ADDRESS_A_SECOND, _OF_ADDRESS_AT_ONCE = 50.0, 500.0  # many nodes may stand behind one address
_RARE_A_SECOND, _RARE_AT_ONCE = 5.0, 20.0  # calls of one address that the crowd of the others does not touch
_NEWCOMERS_A_SECOND, _NEWCOMERS_AT_ONCE = 500.0, 6000.0  # the members of a whole cluster come back to a new leader
_STRANGERS_A_SECOND, _STRANGERS_AT_ONCE = 100.0, 200.0
_KNOWN_A_SECOND, _KNOWN_AT_ONCE = 100.0, 1000.0  # a reserve that no stranger touches
_MOST_REMEMBERED = 8192  # addresses


@dataclass(eq=False, kw_only=True)
class _Caller:
    calls: Bucket = field(default_factory=lambda: Bucket(_OF_ADDRESS_A_SECOND, _OF_ADDRESS_AT_ONCE))
    rare: Bucket = field(default_factory=lambda: Bucket(_RARE_A_SECOND, _RARE_AT_ONCE))


class Callers:
    """The budgets of all addresses; those that called last are remembered."""

    def __init__(self) -> None:
        self._callers: OrderedDict[str, _Caller] = OrderedDict()
        self._newcomers = Bucket(_NEWCOMERS_A_SECOND, _NEWCOMERS_AT_ONCE)
        self._strangers = Bucket(_STRANGERS_A_SECOND, _STRANGERS_AT_ONCE)
        self._known = Bucket(_KNOWN_A_SECOND, _KNOWN_AT_ONCE)

    def may_call(self, address: str, now: float, *, is_known: bool) -> bool:
        """`is_known`: somebody at this address has proved who it is."""
        caller = self._callers.setdefault(address, _Caller())
        self._callers.move_to_end(address)
        if len(self._callers) > _MOST_REMEMBERED:
            self._callers.popitem(last=False)
        if not caller.calls.take(now):
            return False
        if caller.rare.take(now) and self._newcomers.take(now):
            return True
        return (self._known if is_known else self._strangers).take(now)
