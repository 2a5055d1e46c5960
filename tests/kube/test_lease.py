"""Who may lead: a pure decision over the lease as it was read."""

import pytest

from finetune_operator.kube.lease import LeaseView, Move, decide_lease, transitions_of_first_lease


def lease(holder: str = "other", unchanged_seconds: float = 0.0, duration_seconds: float = 15.0) -> LeaseView:
    return LeaseView(holder=holder, transitions=4, duration_seconds=duration_seconds, unchanged_seconds=unchanged_seconds)


@pytest.mark.parametrize(
    ("view", "move"),
    [
        (None, Move.CREATE),
        (lease("me"), Move.RENEW),
        (lease("me", unchanged_seconds=1000), Move.RENEW),
        (lease("other"), Move.WAIT),
        (lease("other", unchanged_seconds=15), Move.WAIT),
        (lease("other", unchanged_seconds=15.1), Move.TAKE),
        (lease("other", unchanged_seconds=20, duration_seconds=60), Move.WAIT),
        (lease(""), Move.TAKE),
    ],
)
def test_a_lease_is_taken_only_when_it_is_free(view, move) -> None:
    assert decide_lease(view, "me") is move


def test_terms_grow_when_somebody_deletes_the_lease() -> None:
    year_2026, an_hour = 1_767_225_600.0, 3600.0
    assert transitions_of_first_lease(year_2026 + an_hour) - transitions_of_first_lease(year_2026) == 60
    assert 0 < transitions_of_first_lease(year_2026) < 2**31
