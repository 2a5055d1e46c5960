"""Again and again while a store is away; what it refuses ends the job in the user's words, with the field or the Secret named.

How long a gang may wait like this is the operator's to say: it is told every minute.
"""

import logging
import time
from collections.abc import Callable
from random import Random
from typing import TypeVar

from finetune_agent.preparing.digests import InputChanged
from finetune_agent.stores.object_store import ObjectMissing, StoreRefused, StoreUnavailable
from finetune_contract.backoff import Backoff
from finetune_contract.failures import FailureClass, TrainingError
from finetune_contract.times import STORE_AWAY_AGAIN_SECONDS, STORE_FIRST_BACKOFF_SECONDS, STORE_LONGEST_BACKOFF_SECONDS

_BACKOFF = Backoff(first_seconds=STORE_FIRST_BACKOFF_SECONDS, longest_seconds=STORE_LONGEST_BACKOFF_SECONDS)
_CREDENTIALS_FIELD = "spec.storage.secretName"
_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)


def until_it_answers(field: str, attempt: Callable[[], _Result], *, warn: Callable[[str], None], random: Random) -> _Result:
    """What `attempt` gives; `warn` hears at once and every minute that it must wait. Raises TrainingError where waiting is of no use."""
    num_failures, told_at = 0, float("-inf")
    while True:
        try:
            return attempt()
        except StoreRefused as error:
            where = error.field or (_CREDENTIALS_FIELD if error.about_credentials else field)
            raise TrainingError(FailureClass.USER_ERROR, f"{where}: {error.message}") from error
        except ObjectMissing as error:
            raise TrainingError(FailureClass.USER_ERROR, f"{field}: {error} does not exist; check the uri, or put it there") from error
        except (StoreUnavailable, InputChanged) as error:
            _log.warning("%s: %s; trying again", field, error)
            if time.monotonic() - told_at >= STORE_AWAY_AGAIN_SECONDS:
                told_at = time.monotonic()
                warn(f"{field}: {error}; the member keeps trying")
        num_failures += 1
        time.sleep(_BACKOFF.spread_after(num_failures, random))
