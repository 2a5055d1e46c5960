"""One row to tokens, with the mask of those that carry loss: what the model must generate after the prompt, its end token included.

A conversation is brought into one form (conversation.py), rendered (template.py), proven to be shown whole (trace.py), and its turns
are found (spans.py). Plain rows begin and end with the tokenizer's tokens exactly once.
"""

import json
import sys
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from typing import TYPE_CHECKING, Any

from finetune_contract.chat_template import ChatTemplate, TemplateProblem
from finetune_contract.plurals import counted
from finetune_trainer.columns import kind_of_value
from finetune_trainer.conversation import Conversation, Misshapen, parse_messages, parse_pair
from finetune_trainer.notes import ANSWER_CHANGED, NULL_ARGUMENTS, OPEN_TURN, shows_date, unread_key
from finetune_trainer.rows import Row, RowError, Rows
from finetune_trainer.spans import Span, TurnHidden, Turns
from finetune_trainer.template_choice import TemplateChoice
from finetune_trainer.tiling import TiledTurns, tiles_of
from finetune_trainer.token_text import Places, TokenPlace, TokenText, overlap, tiled
from finetune_trainer.trace import Render, changes_an_answer, hidden_field

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PRIVATE = ("\ue000", "\ue001")
_SHOWN_CHARS = 40
NO_LIMIT = sys.maxsize


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One row as tokens; `is_target` marks those that carry loss. `notes` are things to say about the row that end nothing."""

    ids: list[int]
    is_target: list[bool]
    notes: tuple[str, ...] = ()


class Encoder:
    """Rows of one form to tokens, one at a time. Whatever is wrong with a row is a RowError, with a template a TrainingError.

    `day` is the day of the job's creation: a template that shows a date shows this one.
    """

    def __init__(
        self, rows: Rows, tokenizer: "PreTrainedTokenizerBase", *, trains_on_all: bool, template: str | None, day: date | None = None
    ) -> None:
        self._form, self._field, self._tokenizer, self._trains_on_all = rows.form, rows.field, tokenizer, trains_on_all
        self._templates = TemplateChoice(tokenizer, template, day=day)
        self._begin, self._end = _own_begin(tokenizer), tokenizer.eos_token_id
        added = tokenizer.added_tokens_decoder
        self._added = frozenset(added)
        special = {*tokenizer.all_special_ids, *(number for number, token in added.items() if token.special)}
        self._ends = special - ({tokenizer.bos_token_id} - {self._end})

    def encode(self, row: Row, *, limit: int = NO_LIMIT, beat: Callable[[], None] = lambda: None) -> Encoded:
        """`limit`: of the tokens behind so many no mark is made; `beat` is called at every turn, for each costs a rendering.

        Raises RowError in the user's words; TrainingError for what is wrong with the template whatever the row.
        """
        try:
            if self._form == "messages":
                return self._conversation(parse_messages(row.content), limit, beat)
            if self._form == "prompt-completion" and any(isinstance(row.content.get(name), list) for name in ("prompt", "completion")):
                return self._conversation(parse_pair(row.content), limit, beat)
            return self._plain(row)
        except Misshapen as error:
            raise RowError(self._field, row.number, str(error)) from None

    def _plain(self, row: Row) -> Encoded:
        names = ("text",) if self._form == "text" else ("prompt", "completion")
        for name in names:
            value = row.content.get(name)
            if not isinstance(value, str):
                raise Misshapen(f"{name}: wanted a string, got {kind_of_value(value)}")
        if not row.content[names[-1]]:
            raise Misshapen(f"{names[-1]} is empty: there is nothing to train on")
        parts = [self._ids(row.content[name]) for name in names]
        if self._begin and parts[0][: len(self._begin)] != self._begin:
            parts[0] = self._begin + parts[0]
        if self._end is not None and not self._ends_with_end(row.content[names[-1]]):
            parts[-1] = [*parts[-1], self._end]
        trained = [self._trains_on_all or index == len(parts) - 1 for index in range(len(parts))]
        return Encoded(
            ids=[token for part in parts for token in part],
            is_target=[mark for part, is_trained in zip(parts, trained, strict=True) for mark in [is_trained] * len(part)],
            notes=(OPEN_TURN,) if self._end is None else (),
        )

    def _ends_with_end(self, text: str) -> bool:
        """Blanks after it aside: a second end token would only teach to say it twice."""
        ids = self._ids(text.rstrip())
        return bool(ids) and ids[-1] == self._end

    def _ids(self, text: str) -> list[int]:
        try:
            return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        except Exception as error:  # noqa: BLE001 - whatever a tokenizer raises is about the text that it was given
            raise Misshapen(f"the tokenizer cannot read it: {type(error).__name__}") from None

    def _conversation(self, conversation: Conversation, limit: int, beat: Callable[[], None]) -> Encoded:
        roles = [message["role"] for message in conversation.messages]
        if not self._trains_on_all and "assistant" not in roles:
            raise Misshapen("no message has the role assistant: there is nothing to train on")
        template = self._templates.of(conversation.tools)
        try:
            conversation, whole = _rendered(template, conversation)
            word = _word_outside(whole, conversation)
            _check_all_is_shown(template, conversation, roles, word)
            text = self._tokens_of(whole)
            render = partial(template.render, tools=conversation.tools)
            messages = conversation.messages
            by_rendering = Turns(render, messages, whole, word=word, borders=self._borders)
            turns = TiledTurns(by_rendering, messages, whole, tiles=partial(tiles_of, render, messages, whole, word=word))
            places = Places(limit, beat, partial(self._place, turns, text=text))
            is_target, trained = self._mask(template, conversation, text, places)
            is_changed = changes_an_answer(_renderer(template), conversation.messages, conversation.tools, whole)
        except TemplateProblem as problem:
            if problem.is_endless and (size := _large(conversation)) is not None:
                raise Misshapen(f"the chat template takes too long for {size} ({problem.words}); split the row") from None
            if problem.is_endless:
                raise self._templates.blamed(problem.words) from None
            raise Misshapen(f"the chat template refuses it: {problem.words}") from None
        notes = [unread_key(key) for key in sorted(conversation.unknown)]
        if conversation.had_nulls:
            notes.append(NULL_ARGUMENTS)
        if is_changed:
            notes.append(ANSWER_CHANGED)
        if template.asks_for_date:
            notes.append(shows_date(template.day))
        if not all(place.is_ended for place in trained):
            notes.append(OPEN_TURN)
        return Encoded(ids=text.ids, is_target=is_target, notes=tuple(notes))

    def _mask(
        self, template: ChatTemplate, conversation: Conversation, text: TokenText, find: Places
    ) -> tuple[list[bool], list[TokenPlace]]:
        """The mask of a conversation, and the places of its trained turns (none are looked for when all of it is trained)."""
        answers = [index for index, message in enumerate(conversation.messages) if message["role"] == "assistant"]
        marks = _mark_spans(template, conversation, text.whole) if template.has_marks and not self._trains_on_all else None
        places: list[TokenPlace] = []
        if marks is not None:
            places = [self._marked_place(text, span) for span in marks]
        elif not self._trains_on_all:
            places = list(find.of([index for index in answers if conversation.trained[index]]))
        is_target = [self._trains_on_all] * len(text.ids)
        for place in places:
            is_target[place.first : place.last] = [True] * (place.last - place.first)
        if marks is not None or self._trains_on_all:
            silent = [index for index, is_trained in enumerate(conversation.trained) if not is_trained]
            for place in find.of(silent if self._trains_on_all else sorted({*silent} & {*answers})):
                is_target[place.first : place.last] = [False] * (place.last - place.first)
        return is_target, [place for place in places if any(is_target[place.first : place.last])]

    def _place(self, turns: TiledTurns, index: int, text: TokenText) -> TokenPlace:
        """Tokens of one turn, to and with the next special token. Raises Misshapen if the template shows no single place for it."""
        try:
            span = turns.span(index)
        except TurnHidden:
            problem = f"the chat template hides, changes or repeats the text of messages[{index}], so its tokens cannot be found"
            advice = "set spec.training.chatTemplate to a template with generation blocks, or spec.training.trainOn to all"
            raise Misshapen(f"{problem}; {advice}") from None
        first, last = overlap(text, span)
        if last > first and text.ids[last - 1] in self._ends and text.ends[last - 1] > span.last:
            return TokenPlace(first, last, True)
        end = last
        while end < len(text.ids) and (self._is_blank(text, end) or text.ids[end] in self._added):
            end += 1
            if text.ids[end - 1] in self._ends:
                return TokenPlace(first, end, True)
        limit = bisect_left(text.starts, turns.limit(index))
        end = next((at + 1 for at in range(last, limit) if text.ids[at] in self._ends), None) or last
        return TokenPlace(first, end, end > last)

    def _marked_place(self, text: TokenText, span: Span) -> TokenPlace:
        first, last = overlap(text, span)
        end = last
        while end > first and self._is_blank(text, end - 1):
            end -= 1
        return TokenPlace(first, last, end > first and text.ids[end - 1] in self._ends)

    def _is_blank(self, text: TokenText, token: int) -> bool:
        return text.ids[token] not in self._added and not text.whole[text.starts[token] : text.ends[token]].strip()

    def _tokens_of(self, whole: str) -> TokenText:
        try:
            encoded = self._tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
        except Exception as error:  # noqa: BLE001 - whatever a tokenizer raises is about the text that it was given
            raise Misshapen(f"the tokenizer cannot read it: {type(error).__name__}") from None
        starts, ends = tiled(encoded["offset_mapping"])
        return TokenText(whole=whole, ids=list(encoded["input_ids"]), starts=starts, ends=ends)

    def _borders(self, prompt: str) -> list[int]:
        return [end for end in self._tokens_of(prompt).ends if end] if prompt else []


def _rendered(template: ChatTemplate, conversation: Conversation) -> tuple[Conversation, str]:
    """The conversation in the words that the template knows, and its rendering. Raises TemplateProblem."""
    if not template.knows("developer"):
        messages = tuple({**one, "role": "system"} if one["role"] == "developer" else one for one in conversation.messages)
        conversation = replace(conversation, messages=messages)
    try:
        return conversation, template.render(conversation.messages, tools=conversation.tools)
    except TemplateProblem as problem:
        if problem.is_endless or not any("tool_calls" in message for message in conversation.messages):
            raise
        with_texts = replace(conversation, messages=tuple(map(_with_argument_texts, conversation.messages)))
        try:  # some templates put the arguments of a call into a text as they are
            return with_texts, template.render(with_texts.messages, tools=conversation.tools)
        except TemplateProblem:
            raise problem from None


def _check_all_is_shown(template: ChatTemplate, conversation: Conversation, roles: Sequence[str], word: str) -> None:
    hidden = hidden_field(_renderer(template), conversation.messages, conversation.tools, word=word)
    if hidden is None:
        return
    index = int(hidden.partition("[")[2].partition("]")[0])
    about = "" if hidden.startswith("tools") else f" (role {roles[index][:_SHOWN_CHARS]})"
    raise Misshapen(
        f"{hidden}{about}: the chat template does not show this field; remove it from the row, or give a template that shows it"
    )


def _renderer(template: ChatTemplate) -> Render:
    return lambda messages, tools: template.render(messages, tools=tools)


def _large(conversation: Conversation) -> str | None:
    """Its size in words, if it is so large that the row and not the template is to blame for too much work."""
    num_messages, num_chars = len(conversation.messages), len(repr(conversation.messages))
    return (
        f"{counted(num_messages, 'message')} with {counted(num_chars, 'character')}" if num_messages > 500 or num_chars > 500_000 else None
    )


def _with_argument_texts(message: dict[str, Any]) -> dict[str, Any]:
    if "tool_calls" not in message:
        return message
    calls = [
        {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False)}}
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


def _mark_spans(template: ChatTemplate, conversation: Conversation, whole: str) -> list[Span] | None:
    """What the generation blocks of the template show, neighbours as one; None if the marks do not come through unchanged."""
    first, last = _PRIVATE
    if first in whole or last in whole:
        return None
    marked = template.render(conversation.messages, tools=conversation.tools, marks=(first, last))
    if marked.replace(first, "").replace(last, "") != whole:
        return None
    spans: list[Span] = []
    begin, place = 0, 0
    for character in marked:
        if character == first:
            begin = place
        elif character == last:
            joined = spans.pop().first if spans and spans[-1].last == begin else begin
            spans.append(Span(first=joined, last=place))
        else:
            place += 1
    return spans


def _word_outside(whole: str, conversation: Conversation) -> str:
    """A word of plain letters that stands nowhere in the row, whatever its case."""
    taken = (whole + repr(conversation.messages) + repr(conversation.tools)).lower()
    return next(word for word in (f"zq{number}qz" for number in range(len(taken) + 1)) if word not in taken)


def _own_begin(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """What the tokenizer puts before a text by itself."""
    bare, dressed = (list(tokenizer("a", add_special_tokens=special)["input_ids"]) for special in (False, True))
    return next((dressed[:at] for at in range(len(dressed)) if dressed[at : at + len(bare)] == bare), [])
