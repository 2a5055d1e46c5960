"""An endpoint that a job names, checked as it is written and as it is resolved, before credentials go there."""

import contextlib
import socket
from collections.abc import Collection

from finetune_agent.stores.object_store import StoreRefused
from finetune_contract.endpoints import check_endpoint, refuse_addresses


def check_reachable(url: str, *, field: str, allowed: Collection[str]) -> None:
    """Raises StoreRefused for what is no URL and for link-local and metadata addresses, behind a name as well.

    A name that does not resolve is not judged: the store is away.
    """
    try:
        endpoint = check_endpoint(url, allowed=allowed)
        addresses: set[str] = set()
        with contextlib.suppress(OSError, UnicodeError):
            addresses = {str(found[4][0]) for found in socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)}
        refuse_addresses(endpoint.host, addresses, allowed=allowed)
    except ValueError as error:
        raise StoreRefused(str(error), field=field) from error
