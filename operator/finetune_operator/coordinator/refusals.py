"""What was turned away: always counted, and written to the log as far as the budget of whoever caused it goes."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable

from pydantic import ValidationError

from finetune_operator.coordinator.identity import TokenRefused
from finetune_operator.coordinator.pace import LogBudget

log = logging.getLogger(__name__)


class Refusals:
    """`count` hears a word of a small fixed set."""

    def __init__(self, count: Callable[[str], None]) -> None:
        self.count = count
        self._strangers = LogBudget()
        self._of_members: defaultdict[str, LogBudget] = defaultdict(LogBudget)

    def note_token(self, refusal: TokenRefused) -> None:
        self.count("token")
        if (left_out := self._strangers.admit(asyncio.get_running_loop().time())) is not None:
            log.info("a member's token was refused: %s (%d such lines left out)", refusal, left_out)

    def note(self, member_uid: str, what: str, words: str) -> None:
        self.count(what)
        if (left_out := self._of_members[member_uid].admit(asyncio.get_running_loop().time())) is not None:
            log.warning("%s (%d such lines left out)", words, left_out, extra={"member": member_uid})

    def forget_members_except(self, is_known: Callable[[str], bool]) -> None:
        for uid in [uid for uid in self._of_members if not is_known(uid)]:
            del self._of_members[uid]


def describe(error: ValidationError) -> str:
    """Field and what is wrong with it, never what came."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(map(str, first['loc']))[:100]}: {first['msg'][:200]}"
