"""The proof that a chat template leaves nothing of a row out: each field is replaced by a word of its own, which must come out again.

What a template leaves out by design in one place (a thought of an earlier turn) counts as shown if it is shown where the turn is the last.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from finetune_contract.chat_template import TemplateProblem

_END_OF_THOUGHT = "</think>"
Messages = Sequence[dict[str, Any]]
Render = Callable[[Messages, Sequence[Any] | None], str]


@dataclass(frozen=True, kw_only=True)
class _Field:
    """One field of a message or of a tool: `put(owner, value)` is the owner with another value there."""

    name: str
    index: int
    put: Callable[[dict[str, Any], str], dict[str, Any]]
    is_tool: bool = False


def hidden_field(render: Render, messages: Messages, tools: Sequence[Any] | None, *, word: str) -> str | None:
    """The first field that the template does not show, such as `messages[2].reasoning_content`; None if it shows all.

    `word`, of letters and digits, must stand nowhere in the row. Raises TemplateProblem only for a template that comes to no end.
    """
    fields = {f"{word}{number}x": field for number, field in enumerate((*_fields_of(messages), *_fields_of_tools(tools or ())))}
    other_messages, other_tools = list(messages), list(tools or ())
    for its_word, field in fields.items():
        owners = other_tools if field.is_tool else other_messages
        owners[field.index] = field.put(owners[field.index], its_word)
    text = _try(render, other_messages, other_tools or None)
    shown = set(re.findall(rf"{word}[0-9]+x", text))
    hidden = (
        field for its_word, field in fields.items() if its_word not in shown and not _is_shown(render, messages, tools, field, its_word)
    )
    return next((field.name for field in hidden), None)


def changes_an_answer(render: Render, messages: Messages, tools: Sequence[Any] | None, whole: str) -> bool:
    """Whether the words of an assistant do not come out in their order, blanks aside: neither in `whole` nor where its turn is the last.

    A field may be shown and a part of what it holds be cut out of it. Raises TemplateProblem as `hidden_field` does.
    """
    squashed, leaves_out_thoughts = "", False
    for index, message in enumerate(messages):
        if message["role"] != "assistant" or message["content"] in whole:
            continue
        squashed, said = squashed or _squashed(whole), _squashed(message["content"])
        rest = said.partition(_END_OF_THOUGHT)[2]
        if said in squashed or (leaves_out_thoughts and rest and rest in squashed):
            continue
        if said.lower() not in _squashed(_try(render, messages[: index + 1], tools)):
            return True
        leaves_out_thoughts = True  # of turns that are not the last: proven once, for every proof costs a rendering
    return False


def _squashed(text: str) -> str:
    return "".join(text.split())


def _is_shown(render: Render, messages: Messages, tools: Sequence[Any] | None, field: _Field, word: str) -> bool:
    """In the one that ends with this message, in the conversation as it is, or by any difference to a rendering without the field."""
    if field.is_tool:
        return word in _try(render, messages, [field.put(tool, word) if at == field.index else tool for at, tool in enumerate(tools or ())])
    before, message, after = messages[: field.index], messages[field.index], messages[field.index + 1 :]
    with_word = (*before, field.put(message, word))
    if word in _try(render, with_word, tools) or word in _try(render, (*with_word, *after), tools):
        return True
    return _try(render, (*before, field.put(message, ""), *after), tools) not in ("", _try(render, messages, tools))


def _try(render: Render, messages: Messages, tools: Sequence[Any] | None) -> str:
    try:
        return render(messages, tools).lower()
    except TemplateProblem as problem:
        if problem.is_endless:
            raise
        return ""


def _fields_of(messages: Messages) -> Iterator[_Field]:
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        calls = message.get("tool_calls", ())
        for name in ("content", "reasoning_content"):
            if message.get(name) or (name == "content" and not calls and not message.get("reasoning_content")):
                yield _Field(name=f"{where}.{name}", index=index, put=partial(_with_text, name))
        for number, call in enumerate(calls):
            place = f"{where}.tool_calls[{number}].function"
            yield _Field(name=f"{place}.name", index=index, put=partial(_with_call_of, number))
            if call["function"]["arguments"]:
                yield _Field(name=f"{place}.arguments", index=index, put=partial(_with_arguments, number))


def _fields_of_tools(tools: Sequence[Any]) -> Iterator[_Field]:
    return (_Field(name=f"tools[{index}]", index=index, put=_with_name, is_tool=True) for index in range(len(tools)))


def _with_text(name: str, message: dict[str, Any], value: str) -> dict[str, Any]:
    return {**message, name: value}


def _with_call_of(number: int, message: dict[str, Any], value: str) -> dict[str, Any]:
    return _with_function(number, message, {"name": value})


def _with_arguments(number: int, message: dict[str, Any], value: str) -> dict[str, Any]:
    arguments = message["tool_calls"][number]["function"]["arguments"]
    return _with_function(
        number, message, {"arguments": f'{{"value": "{value}"}}' if isinstance(arguments, str) else dict.fromkeys(arguments, value)}
    )


def _with_function(number: int, message: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    calls = list(message["tool_calls"])
    calls[number] = {**calls[number], "function": {**calls[number]["function"], **change}}
    return {**message, "tool_calls": calls}


def _with_name(tool: dict[str, Any], name: str) -> dict[str, Any]:
    function = tool.get("function")
    return {**tool, "function": {**function, "name": name}} if isinstance(function, dict) else {**tool, "name": name}
