"""Where all messages of a conversation stand, from one rendering of it in place of one for each message, wherever only one answer fits.

    worded   the conversation with a word of its own as each message: between two words stands what the template writes there
    asked    a beginning of it with the prompt for an answer: how much of what the template writes before an answer is that prompt
    whole    the conversation as it is rendered: the same texts of the template must stand in it, in the same order, from end to end

What lies between the texts of the template is what the messages show. A message counts as found only if the texts around it can stand in
one place alone, and only if rendering (spans.py) found another of its kind where the tiling has it. All else is left to rendering.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import TypeVar

from finetune_trainer.spans import Message, Render, Span, TurnHidden, Turns, common, rendered_or_none

_Found = TypeVar("_Found")
_KEPT_ROLES = ("system", "developer")  # templates read switches in them
_MAX_PROMPTS = 8  # each costs a rendering
_MIN_ANSWERS = 3  # fewer are found sooner by rendering each


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One message in the rendering: it begins at `first`, what it says at `shown_first`. Those of one kind stand behind the same texts."""

    kind: tuple[str, ...]
    first: int
    shown_first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class _Gap:
    """What the template writes before a message; `prompt` is what it writes there when it is asked for an answer, if that is one."""

    text: str
    index: int
    kind: tuple[str, ...]
    prompt: str | None = None

    @property
    def lead(self) -> str:
        """As far as it is the prompt."""
        return self.text if self.prompt is None else common(self.text, self.prompt)


class TiledTurns:
    """The turns of one conversation: the first of each kind is found by renderings, and those like it by the tiling if that one agrees.

    Turns are of one kind that have the same role, behind the same role and the same text of the template.
    """

    def __init__(self, turns: Turns, messages: Sequence[Message], whole: str, *, tiles: Callable[[], Mapping[int, Tile]]) -> None:
        self._turns, self._messages, self._whole, self._make_tiles = turns, messages, whole, tiles
        self._compare_first: Callable[[], None] | None = None
        self._agrees: dict[tuple[str, ...], bool] = {}

    def span(self, index: int) -> Span:
        """Raises TurnHidden, and TemplateProblem if the template refuses even the turns before."""
        is_answer = self._messages[index]["role"] == "assistant"
        return self._proven("span", index, self._turns.span, lambda at: Span(first=at.first if is_answer else at.shown_first, last=at.last))

    def limit(self, index: int) -> int:
        """Before this character nothing of the next turn is shown."""
        if index + 1 == len(self._messages):
            return len(self._whole)
        try:
            return self._proven("limit", index + 1, lambda one: self._turns.shown(one)[0], lambda at: at.shown_first)
        except TurnHidden:
            return self._turns.shown(index)[1]

    def _proven(self, what: str, index: int, render: Callable[[int], _Found], read: Callable[[Tile], _Found]) -> _Found:
        if self._compare_first is None:  # a single turn is not worth a tiling
            found = render(index)
            self._compare_first = cache(partial(self._compare, what, index, found, read))
            return found
        self._compare_first()
        tile = self._tiles.get(index)
        if tile is not None and self._agrees.get((what, *tile.kind), False):
            return read(tile)
        found = render(index)
        self._compare(what, index, found, read)
        return found

    def _compare(self, what: str, index: int, found: _Found, read: Callable[[Tile], _Found]) -> None:
        """One turn of a kind that lies elsewhere than the tiling says leaves all of its kind to rendering."""
        tile = self._tiles.get(index)
        if tile is not None:
            kind = (what, *tile.kind)
            self._agrees[kind] = self._agrees.get(kind, True) and found == read(tile)

    @cached_property
    def _tiles(self) -> Mapping[int, Tile]:
        return self._make_tiles()


def tiles_of(render: Render, messages: Sequence[Message], whole: str, *, word: str) -> dict[int, Tile]:
    """The messages that are found so, by their number. `word` stands nowhere in the conversation. Raises only for an endless template."""
    if sum(message["role"] == "assistant" for message in messages) < _MIN_ANSWERS:
        return {}
    words = {index: f"{word}{index}x" for index, message in enumerate(messages) if message["role"] not in _KEPT_ROLES}
    worded = [_with_word(message, words.get(index)) for index, message in enumerate(messages)]
    texts = _between(rendered_or_none(render, worded), list(words.values()), word)
    if texts is None:
        return {}
    prompts = _prompts(render, worded, words)
    if prompts is None:
        return {}
    gaps = [
        _Gap(text=text, index=index, kind=_roles(messages, index), prompt=prompts.get(_roles(messages, index)))
        for text, index in zip(texts, words, strict=False)
    ]
    places = _only_places(whole, [*(gap.lead for gap in gaps), texts[-1]])
    return {} if places is None else {gap.index: one for gap, one in zip(gaps, _tiles(whole, gaps, places), strict=True) if one is not None}


def _with_word(message: Message, word: str | None) -> Message:
    """An answer has its calls and its thought inside of it; other messages may have keys that a template insists on."""
    if word is None:
        return message
    return {"role": "assistant", "content": word} if message["role"] == "assistant" else {**message, "content": word}


def _roles(messages: Sequence[Message], index: int) -> tuple[str, ...]:
    return messages[index]["role"], messages[index - 1]["role"] if index else ""


def _between(text: str | None, words: Sequence[str], word: str) -> list[str] | None:
    """What stands before, between and behind the words; None unless each stands there once, in their order."""
    texts, place = [], 0
    for its_word in words:
        at = -1 if text is None else text.find(its_word, place)
        if text is None or at < 0:
            return None
        texts.append(text[place:at])
        place = at + len(its_word)
    texts.append((text or "")[place:])
    return None if any(word in one for one in texts) else texts


def _prompts(render: Render, worded: Sequence[Message], words: Mapping[int, str]) -> dict[tuple[str, ...], str] | None:
    """What stands behind the last word of a beginning that asks for an answer, by the roles there; each is asked where it comes first."""
    prompts: dict[tuple[str, ...], str] = {}
    before = None
    for index, word in words.items():
        roles = _roles(worded, index)
        if before is not None and roles[0] == "assistant" and roles not in prompts:
            asked = rendered_or_none(render, worded[:index], asks=True)
            if asked is None or before not in asked or len(prompts) == _MAX_PROMPTS:
                return None
            prompts[roles] = asked.rpartition(before)[2]
        before = word
    return prompts


def _only_places(whole: str, texts: Sequence[str]) -> list[int | None] | None:
    """Where each of the texts begins if they stand in `whole` in their order, the first at its start and the last at its end.

    None in the place of a text that could stand elsewhere too: the places that are taken from the left and from the right differ.
    """
    lefts, place = [], 0
    for number, text in enumerate(texts[:-1]):
        at = whole.find(text, place) if number else whole.find(text, 0, len(text))
        if at < 0:
            return None
        lefts.append(at)
        place = at + len(text)
    right = len(whole) - len(texts[-1])
    if right < place or not whole.endswith(texts[-1]):
        return None
    places: list[int | None] = [right]
    for number in range(len(lefts) - 1, -1, -1):
        right = whole.rfind(texts[number], lefts[number], right) if number else 0
        places.append(right if right == lefts[number] else None)
    return places[::-1]


def _tiles(whole: str, gaps: Sequence[_Gap], places: Sequence[int | None]) -> Iterator[Tile | None]:
    for number, gap in enumerate(gaps):
        place, last = places[number], places[number + 1]
        is_asked = gap.kind[0] != "assistant" or gap.prompt is not None  # before the first message nothing is asked
        yield _tile(whole, gap, place, last) if is_asked and place is not None and last is not None else None


def _tile(whole: str, gap: _Gap, place: int, last: int) -> Tile | None:
    lead, prompt = gap.lead, gap.prompt or ""
    if prompt and common(prompt, whole[place : place + len(prompt)]) != lead:
        return None  # more of the prompt stands here than before the word: what is said goes on as the prompt does
    first, rest = place + len(lead), gap.text[len(lead) :]
    shown_first = first + len(common(rest, whole[first : first + len(rest)]))
    return Tile(kind=(*gap.kind, lead, rest), first=first, shown_first=shown_first, last=last) if shown_first <= last else None
