"""A rendered conversation as tokens, and where its turns lie in them."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from finetune_trainer.spans import Span


@dataclass(frozen=True, kw_only=True)
class TokenText:
    """A rendered conversation as tokens; token i is characters `starts[i]` to `ends[i]`."""

    whole: str
    ids: list[int]
    starts: list[int]
    ends: list[int]


class TokenPlace(NamedTuple):
    """Tokens `first` to `last` are one turn; `is_ended`: the last of them, blanks aside, is a special token."""

    first: int
    last: int
    is_ended: bool


class Places:
    """Finds turns one after the other, up to the one that begins behind the last token that is kept."""

    def __init__(self, limit: int, beat: Callable[[], None], find: Callable[[int], TokenPlace]) -> None:
        self._limit, self._beat, self._find = limit, beat, find

    def of(self, indices: Sequence[int]) -> Iterator[TokenPlace]:
        for index in indices:
            self._beat()
            place = self._find(index)
            # No template is known that shows the last turn before the others; one that does is gone through to its end.
            if place.first >= self._limit and self._find(indices[-1]).first >= place.first:
                return
            yield place


def tiled(offsets: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Starts and ends of tokens whose blanks a tokenizer may have trimmed away, with each gap given to the token that follows it."""
    starts: list[int] = []
    ends: list[int] = []
    place = 0
    for start, end in offsets:
        starts.append(min(start, place))
        place = max(place, end)
        ends.append(place)
    return starts, ends


def overlap(text: TokenText, span: Span) -> tuple[int, int]:
    """Tokens from the first that ends after the span begins, up to the last that starts before it ends."""
    first = bisect_right(text.ends, span.first)
    return first, max(first, bisect_left(text.starts, span.last))
