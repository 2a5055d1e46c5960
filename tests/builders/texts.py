"""Texts as nobody expects them, all of which UTF-8 can say."""

from hypothesis import strategies as st

# Named one by one: hypothesis would walk all of Unicode first, which takes a slow machine minutes.
LETTERS = "abcXYZ059 .-_/:{}[]#&*!|>%@'\"\\~,?=<\n\t\r\x00\x07\x1b\x7f\x85\xa0\xe9\u0130\u2028\u202e\ufeff\U0001f600"


_NUM_SURROGATES = 0x800


def texts(max_size: int) -> st.SearchStrategy[str]:
    """Of these letters, or of all of Unicode without its surrogates."""
    anything = st.integers(0, 0x10FFFF - _NUM_SURROGATES).map(lambda number: chr(number + (_NUM_SURROGATES if number >= 0xD800 else 0)))
    return st.text(alphabet=LETTERS, max_size=max_size) | st.lists(anything, max_size=max_size).map("".join)
