"""Where a turn stands in a rendered conversation, found by rendering and never by searching for what was said.

    whole    the conversation as it is rendered
    blank    the same with one word, which stands nowhere else, in the place of turn i: what is before and after it is not turn i
    asked    the turns before turn i with the prompt for an answer: what the model is given; turn i begins where it ends

These are two renderings a turn: tiling.py answers for the turns of a kind of which one was found so. It knows characters only. Which tokens
they are, and the end token of a turn: encode.py. Reasons: docs/decisions/018.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from finetune_contract.chat_template import TemplateProblem

Message = Mapping[str, Any]
_NEUTRAL: tuple[Message, ...] = ({"role": "user", "content": "x"},)


class Render(Protocol):
    """A template with the tools of one conversation."""

    def __call__(self, messages: Sequence[Message], *, asks: bool = False) -> str: ...


class TurnHidden(Exception):
    """The template shows no single place for a turn."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """Characters `first` to `last` of the rendering are one turn, its end token not included."""

    first: int
    last: int


class Turns:
    """Turns of one conversation. `word` must stand nowhere in it; `borders(text)` are the places in a prompt at which a turn may begin."""

    def __init__(self, render: Render, messages: Sequence[Message], whole: str, *, word: str, borders: Callable[[str], list[int]]) -> None:
        self._render, self._messages, self._whole, self._word, self._borders = render, messages, whole, word, borders
        self._around: dict[int, tuple[int, int]] = {}

    def span(self, index: int) -> Span:
        """Raises TurnHidden, and TemplateProblem if the template refuses even the turns before."""
        shown_first, last = self.shown(index)
        first = self._begin(index, shown_first) if self._messages[index]["role"] == "assistant" else shown_first
        if first > last:
            raise TurnHidden
        return Span(first=first, last=last)

    def shown(self, index: int) -> tuple[int, int]:
        """Between which characters the content stands, up to the end of the turn's calls."""
        if index not in self._around:
            self._around[index] = self._find(index)
        return self._around[index]

    def _find(self, index: int) -> tuple[int, int]:
        blanks = []
        for replaced in _replacements(self._messages[index], self._word):
            blank = self._blank(index, replaced)
            if blank is None:
                continue
            first, last = len(common(self._whole, blank[0])), len(self._whole) - len(blank[1])
            if self._whole.endswith(blank[1]) and first <= last:
                return first, last
            blanks.append(blank)
        for before, after in blanks:  # the template ends a turn of this kind otherwise, with another end token for example
            first, last = len(common(self._whole, before)), len(self._whole) - len(common(self._whole[::-1], after[::-1]))
            if first <= last and (index + 1 == len(self._messages) or last <= self.shown(index + 1)[0]):
                return first, last
        raise TurnHidden

    def _blank(self, index: int, replaced: Message) -> tuple[str, str] | None:
        """What the rendering shows before and after the word in the place of turn i."""
        text = rendered_or_none(self._render, (*self._messages[:index], replaced, *self._messages[index + 1 :]))
        if text is None or self._word not in text:
            return None
        return text.split(self._word)[0], text.rpartition(self._word)[2]

    def _begin(self, index: int, shown_first: int) -> int:
        """Where the model goes on from the prompt for this turn; never after the first character of what the turn shows."""
        history = self._messages[:index]
        asked, plain = rendered_or_none(self._render, history, asks=True), None
        if asked is not None and self._whole.startswith(asked):
            if not history or history[-1]["role"] != "assistant":
                return len(asked)
            plain = rendered_or_none(self._render, history)
            if asked != plain:
                return len(asked)
        prompt = _added(asked, rendered_or_none(self._render, history) if plain is None else plain) or self._usual_prompt()
        begin = self._end_of_turn_before(index, shown_first)
        for size in sorted(self._borders(prompt), reverse=True):
            place = self._whole.rfind(prompt[:size], begin, shown_first)
            if place >= 0:
                return place + size
        return shown_first if prompt else begin

    def _end_of_turn_before(self, index: int, shown_first: int) -> int:
        """A place after what the turn before shows and before this turn."""
        if index == 0:
            return 0
        before = rendered_or_none(self._render, self._messages[:index])
        if before is not None and self._whole.startswith(before):
            return len(before)
        try:
            return min(self.shown(index - 1)[1], shown_first)
        except TurnHidden:
            return len(common(self._whole, before or ""))

    def _usual_prompt(self) -> str:
        return _added(rendered_or_none(self._render, _NEUTRAL, asks=True), rendered_or_none(self._render, _NEUTRAL))


def _replacements(message: Message, word: str) -> list[Message]:
    """The turn with nothing in it but the word; then, for templates that insist on the calls of a turn, with the word in its last call."""
    replaced: list[Message] = [{"role": message["role"], "content": word}]
    kept = {name: value for name, value in message.items() if name != "content"}
    calls = message.get("tool_calls")
    if calls:
        *others, last = calls
        replaced.append({**kept, "content": "", "tool_calls": [*others, {**last, "function": {"name": word, "arguments": {}}}]})
    elif len(kept) > 1:
        replaced.append({**kept, "content": word})
    return replaced


def _added(asked: str | None, plain: str | None) -> str:
    """What the prompt for an answer adds to a conversation."""
    if asked is None or plain is None:
        return ""
    return asked[len(common(asked, plain)) :]


def rendered_or_none(render: Render, messages: Sequence[Message], *, asks: bool = False) -> str | None:
    """None where the template refuses. Raises TemplateProblem for a template that comes to no end."""
    try:
        return render(messages, asks=asks)
    except TemplateProblem as problem:
        if problem.is_endless:
            raise
        return None


def common(one: str, other: str) -> str:
    """The characters that both begin with."""
    if other.startswith(one):
        return one
    low, high = 0, min(len(one), len(other))
    while low < high:  # the greatest length at which they agree
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle - 1)
    return one[:low]
