"""Conversations as people have them, brought into the one form that chat templates read.

    {"role", "content": text, "reasoning_content"?: text, "tool_calls"?: [{"type", "function": {"name", "arguments": object}}], ...}

It knows no template and no tokenizer. A row that cannot be brought into the form is a Misshapen with the field and what was wanted.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from finetune_trainer.columns import ROLES, got, kind_of_value
from finetune_trainer.json_text import BadRow, parse_json, shown_name

_WEIGHTS = ("weight", "train", "trainable", "loss")
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
# Links between calls and results, and names of speakers: a template may show them or not.
_LINKS = ("name", "id", "tool_call_id")
# Fields of a call beside its arguments; any other may be the arguments under a name of another tool.
_OF_A_CALL = {"id", "type", "index", "name", "description", "strict"}
_ROLES = ("system", "user", "assistant", "tool", "developer")
_OF_TEMPLATES = ("observation", "function_response")  # ROLES turns them into tool, some templates know them
_KNOWN = ("role", "content", "tool_calls", "function_call", *_WEIGHTS, *_THOUGHTS, *_LINKS)
_SHOWN_CHARS = 60
_MAX_NAMES = 5


class Misshapen(Exception):
    """What is wrong with a row: the field, what came, what was wanted."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """`trained[i]`: whether message i may carry loss. `unknown`: keys of messages that nobody reads. `had_nulls`: in arguments of calls."""

    messages: tuple[dict[str, Any], ...]
    tools: list[Any] | None
    trained: tuple[bool, ...]
    unknown: frozenset[str] = field(default=frozenset())
    had_nulls: bool = False


def parse_messages(content: Mapping[str, Any]) -> Conversation:
    """A row of the form `messages`. Raises Misshapen."""
    return _parse(_list_of(content.get("messages"), "messages"), content)


def parse_pair(content: Mapping[str, Any]) -> Conversation:
    """A row whose prompt and completion are lists of messages: only the completion carries loss. Raises Misshapen."""
    prompt, completion = (_list_of(content.get(name), name) for name in ("prompt", "completion"))
    if not any(isinstance(one, Mapping) and one.get("role") == "assistant" for _, one in completion):
        raise Misshapen("completion: no message has the role assistant: there is nothing to train on")
    parsed = _parse([*prompt, *completion], content)
    trained = tuple(is_trained and index >= len(prompt) for index, is_trained in enumerate(parsed.trained))
    return replace(parsed, trained=trained)


def _list_of(value: object, name: str) -> list[tuple[str, Any]]:
    if not isinstance(value, list) or not value:
        raise Misshapen(f"{name}: wanted a list with at least one message, got {kind_of_value(value)}")
    return [(f"{name}[{index}]", message) for index, message in enumerate(value)]


def _parse(placed: Sequence[tuple[str, Any]], content: Mapping[str, Any]) -> Conversation:
    messages, trained, unknown, had_nulls = [], [], set[str](), False
    for where, message in placed:
        if not isinstance(message, dict):
            raise Misshapen(f"{where}: wanted an object with role and content, got {kind_of_value(message)}")
        given = {str(name): value for name, value in message.items() if value is not None}
        unknown |= given.keys() - set(_KNOWN)
        trained.append(_is_trained(given, where))
        told = given | {name: _without_nulls(given[name]) for name in ("tool_calls", "function_call") if name in given}
        had_nulls = had_nulls or (told != given and _calls(told, where) != _calls(given, where))
        messages.append(_message(told, message, where))
    tools = _tools(content.get("tools"))
    return Conversation(messages=tuple(messages), tools=tools, trained=tuple(trained), unknown=frozenset(unknown), had_nulls=had_nulls)


def _message(given: dict[str, Any], message: dict[str, Any], where: str) -> dict[str, Any]:
    role = given.get("role")
    if not isinstance(role, str) or not role:
        raise Misshapen(f"{where}.role: wanted a string such as user or assistant, got {got(message, 'role')}")
    _check_role(role, where)
    calls = _calls(given, where)
    thought = _thought(given, where)
    parsed: dict[str, Any] = {"role": role}
    if "content" in given:
        parsed["content"] = _text(given["content"], f"{where}.content")
    elif calls or role == "tool" or (thought and role == "assistant"):
        parsed["content"] = ""
    else:
        raise Misshapen(f"{where}.content: wanted a string, got {got(message, 'content')}")
    if thought:
        parsed["reasoning_content"] = _text(thought[1], f"{where}.{thought[0]}")
    if calls:
        parsed["tool_calls"] = calls
    known = {
        name: given[name] for name in given if name not in parsed and name not in (*_WEIGHTS, *_THOUGHTS, "tool_calls", "function_call")
    }
    return parsed | known


def _check_role(role: str, where: str) -> None:
    """Most templates show any role: a turn of Assistant or gpt would be taken for someone else's, without loss."""
    plain = role.strip().lower()
    meant = plain if plain in _ROLES else ROLES.get(plain)
    if meant not in (None, role) and plain not in _OF_TEMPLATES:
        raise Misshapen(f"{where}.role: wanted {meant}, got {json.dumps(role[:_SHOWN_CHARS])}; rename it")


def _thought(given: dict[str, Any], where: str) -> tuple[str, Any] | None:
    """(field, value); an empty one beside another is none."""
    given_ones = [(name, given[name]) for name in _THOUGHTS if name in given]
    held = [one for one in given_ones if one[1]] or given_ones[:1]
    if any(value != held[0][1] for _, value in held):
        raise Misshapen(f"{where}: {', '.join(name for name, _ in held)} hold different thoughts; keep one of them")
    return held[0] if held else None


def _is_trained(given: dict[str, Any], where: str) -> bool:
    """Whether weight, train and trainable leave the turn its loss."""
    answers = []
    for name in _WEIGHTS:
        if name not in given:
            continue
        value = given[name]
        if name == "weight" and (isinstance(value, bool) or value not in (0, 1)):
            raise Misshapen(f"{where}.weight: wanted 0 or 1, got {_shown_weight(value)}; other weights are not supported")
        if name != "weight" and not isinstance(value, bool):
            raise Misshapen(f"{where}.{name}: wanted true or false, got {kind_of_value(value)}")
        answers.append(bool(value))
    if len(set(answers)) > 1:
        raise Misshapen(f"{where}: {', '.join(name for name in _WEIGHTS if name in given)} contradict each other; keep one of them")
    return all(answers)


def _shown_weight(value: object) -> str:
    """A number of a field that controls training is no content: it may be told."""
    return json.dumps(value)[:_SHOWN_CHARS] if isinstance(value, (int, float)) else kind_of_value(value)


def _text(value: object, where: str) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise Misshapen(f"{where}: wanted a string, got {kind_of_value(value)} (a list of text parts is read too)")
    texts = []
    for index, part in enumerate(value):
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        text = part.get("text") if isinstance(part, dict) else part
        if kind != "text" or not isinstance(text, str):
            shown = kind_of_value(part) if not isinstance(part, dict) else f"a part of type {str(kind)[:_SHOWN_CHARS]}"
            shown += " without text" if kind == "text" else ""
            raise Misshapen(f'{where}[{index}]: wanted a part {{"type": "text", "text": ...}}, got {shown}; only text can be trained on')
        texts.append(text)
    return "".join(texts)


def _calls(given: dict[str, Any], where: str) -> list[dict[str, Any]]:
    calls, call = (_read_json(given.get(name), f"{where}.{name}") for name in ("tool_calls", "function_call"))
    if calls and call:
        raise Misshapen(f"{where}: it has tool_calls and function_call; keep one of them")
    name, value = ("function_call", call) if call else ("tool_calls", calls)
    if name == "function_call" and value is not None:
        value = [value]
    if value is None:
        return []
    if not isinstance(value, list):
        raise Misshapen(f"{where}.{name}: wanted a list of calls, got {kind_of_value(value)}")
    return [_call(call, f"{where}.{name}[{index}]" if name == "tool_calls" else f"{where}.{name}") for index, call in enumerate(value)]


def _call(value: object, where: str) -> dict[str, Any]:
    call = _read_json(value, where)
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Misshapen(f"{where}: wanted a call with function.name and function.arguments, got {kind_of_value(call)} without them")
    arguments = function.get("arguments")
    others = sorted(name for name, one in function.items() if one is not None and name not in _OF_A_CALL)
    if arguments is None and others:
        shown = ", ".join(map(shown_name, others[:_MAX_NAMES]))
        raise Misshapen(f"{where}.function.arguments: wanted a JSON object, got nothing; it has {shown}: rename what holds the arguments")
    arguments = {} if arguments in (None, "") else _read_json(arguments, f"{where}.function.arguments")
    if not isinstance(arguments, dict):
        raise Misshapen(f"{where}.function.arguments: wanted a JSON object, got {kind_of_value(arguments)}")
    outer = {name: one for name, one in call.items() if name in ("id", "type") and one is not None} if isinstance(call, dict) else {}
    return {"type": "function", **outer, "function": {"name": function["name"], "arguments": arguments}}


def _tools(value: object) -> list[Any] | None:
    tools = _read_json(value, "tools")
    if tools is None or tools == []:
        return None
    if not isinstance(tools, list):
        raise Misshapen(f"tools: wanted a list of tools, got {kind_of_value(tools)}")
    parsed = [_read_json(tool, f"tools[{index}]") for index, tool in enumerate(tools)]
    for index, tool in enumerate(parsed):
        if not isinstance(tool, dict):
            raise Misshapen(f"tools[{index}]: wanted an object that describes a function, got {kind_of_value(tool)}")
    return [_without_nulls(tool) for tool in parsed]


def _without_nulls(value: Any) -> Any:
    """Columns of arrow fill what one tool, or one call, has and another has not with null. A text of JSON is left as it was said."""
    if isinstance(value, dict):
        return {name: _without_nulls(one) for name, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


def _read_json(value: object, where: str) -> Any:
    """A text that should hold JSON is read, a blank one is nothing; everything else stays."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return parse_json(value)
    except BadRow as error:
        raise Misshapen(f"{where}: {error}") from None
    except ValueError:
        raise Misshapen(f"{where}: wanted JSON, got {kind_of_value(value)} that is none") from None
