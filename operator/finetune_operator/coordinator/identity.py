"""Who speaks on a channel, as far as its token proves it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from finetune_contract.messages import FromAgent, Hello, OfRun


class TokenRefused(Exception):
    """The token proves nothing; the message says why and holds no part of the token."""


@dataclass(frozen=True, kw_only=True)
class MemberIdentity:
    """Who the bearer of a token is: it speaks for this member of this job and nobody else. `addresses`: its pod's, as far as known."""

    member_uid: str
    job_uid: str
    addresses: frozenset[str] = frozenset()

    def may_say(self, message: FromAgent) -> bool:
        """It is about this member, or about the run of its job. A member of contract 1 names no run and means that one."""
        if isinstance(message, Hello):
            return (message.member_uid, message.job_uid) == (self.member_uid, self.job_uid)
        return not isinstance(message, OfRun) or message.run in {None, self.job_uid}


Authenticate = Callable[[str], Awaitable[MemberIdentity]]  # raises TokenRefused
