"""Texts as nobody expects them, all of which UTF-8 can say."""

from hypothesis import strategies as st

# Named one by one: hypothesis would walk all of Unicode first, which takes a slow machine minutes.
LETTERS = "abcXYZ059 .-_/:{}[]#&*!|>%@'\"\\~,?=<\n\t\r\x00\x07\x1b\x7f\x85\xa0\xe9\u0130\u2028\u202e\ufeff\U0001f600"


def texts(max_size: int) -> st.SearchStrategy[str]:
    return st.text(alphabet=LETTERS, max_size=max_size)
