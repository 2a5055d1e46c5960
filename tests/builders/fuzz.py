"""How many examples a property of what strangers send sees: FUZZ_EXAMPLES=20000 for the long run."""

import os
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from tests.builders.texts import texts

NUMBERS = st.one_of(st.integers(), st.floats(), st.integers(min_value=-(10**30), max_value=10**30), st.just(10**400))
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, texts(20), st.sampled_from(["", "\x00", "x" * 5000, "\u202e", "nan"]))
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts(8), inner, max_size=3)), max_leaves=6
)


def fuzz(usual: int) -> settings:
    return settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES") or usual))


@st.composite
def replaced(draw: st.DrawFn, whole: dict[str, Any]) -> dict[str, Any]:
    """Some values of the object replaced by any JSON, at its top or one level below; `whole` itself is changed."""
    for _ in range(draw(st.integers(min_value=0, max_value=3))):
        inner = [value for value in whole.values() if isinstance(value, dict)]
        place = draw(st.sampled_from(inner)) if inner and draw(st.booleans()) else whole
        if place:
            place[draw(st.sampled_from(sorted(place)))] = draw(JSON)
    return whole
