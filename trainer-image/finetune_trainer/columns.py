"""Rows of other tools' forms turned into chat messages, by the preset of spec.dataset.columns. Words only: nothing is rendered here."""

from typing import Any, Literal

from finetune_contract.plurals import counted
from finetune_trainer.json_text import BadRow, parse_json

Columns = Literal["sharegpt", "alpaca"]
COLUMNS_OF: dict[Columns, frozenset[str]] = {
    "sharegpt": frozenset({"conversations", "system", "tools"}),
    "alpaca": frozenset({"instruction", "input", "output", "system", "history"}),
}
_SIGNS: dict[Columns, frozenset[str]] = {"sharegpt": frozenset({"conversations"}), "alpaca": frozenset({"instruction", "output"})}
ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}
_CALL = "function_call"


class WrongColumns(Exception):
    """What is wrong with one row, without a word of its content."""


def looks_like(names: set[str]) -> Columns | None:
    """The preset that a row with these columns is written for."""
    return next((preset for preset, signs in _SIGNS.items() if signs <= names), None)


def as_messages(content: dict[str, Any], preset: Columns) -> dict[str, Any]:
    """The row with `messages` in place of the preset's columns; the others stay. Raises WrongColumns."""
    turned = _from_sharegpt(content) if preset == "sharegpt" else _from_alpaca(content)
    return {**{name: value for name, value in content.items() if name not in COLUMNS_OF[preset] - {"tools"}}, "messages": turned}


def _from_sharegpt(content: dict[str, Any]) -> list[dict[str, Any]]:
    turns = content.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise WrongColumns(f"conversations: wanted a list with at least one turn, got {got(content, 'conversations')}")
    return [*_system(content), *(_turn(turn, f"conversations[{index}]") for index, turn in enumerate(turns))]


def _turn(turn: Any, where: str) -> dict[str, Any]:
    if not isinstance(turn, dict):
        raise WrongColumns(f"{where}: wanted an object with from and value, got {kind_of_value(turn)}")
    role, text = ("from", "value") if "from" in turn or "value" in turn else ("role", "content")
    said = turn.get(text)
    if not isinstance(said, str):
        raise WrongColumns(f"{where}.{text}: wanted a string, got {got(turn, text)}")
    others = {name: value for name, value in turn.items() if name not in {role, text}}
    if turn.get(role) == _CALL:
        return {**others, "role": "assistant", "content": "", "tool_calls": _calls(said, f"{where}.{text}")}
    who = ROLES.get(turn[role]) if isinstance(turn.get(role), str) else None
    if who is None:
        known = ", ".join((*ROLES, _CALL))
        raise WrongColumns(f"{where}.{role}: wanted one of {known}; got {got(turn, role)}")
    return {**others, "role": who, "content": said}


def _calls(said: str, where: str) -> list[dict[str, Any]]:
    """One call, or a list of calls that are made at once."""
    try:
        value = parse_json(said)
    except BadRow as error:
        raise WrongColumns(f"{where}: {error}") from None
    except ValueError:
        value = None
    calls = value if isinstance(value, list) and value else [value]
    for call in calls:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str) or "arguments" not in call:
            raise WrongColumns(f"{where}: wanted a function call as JSON with name and arguments, or a list of them")
    return [{"type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}} for call in calls]


def _from_alpaca(content: dict[str, Any]) -> list[dict[str, Any]]:
    asked, more = _text(content, "instruction"), _text(content, "input")
    if not asked and not more:
        raise WrongColumns("instruction and input are empty: nothing is asked")
    if not isinstance(content.get("output"), str):
        raise WrongColumns(f"output: wanted a string, got {got(content, 'output')}")
    messages = _system(content)
    history = content.get("history") or []
    if not isinstance(history, list):
        raise WrongColumns(f"history: wanted a list of pairs, got {kind_of_value(history)}")
    for index, pair in enumerate(history):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(said, str) for said in pair)):
            raise WrongColumns(f"history[{index}]: wanted a pair of strings (question, answer), got {kind_of_value(pair)}")
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    question = "\n".join(part for part in (asked, more) if part)
    return [*messages, {"role": "user", "content": question}, {"role": "assistant", "content": content["output"]}]


def _system(content: dict[str, Any]) -> list[dict[str, Any]]:
    said = _text(content, "system")
    return [{"role": "system", "content": said}] if said else []


def _text(content: dict[str, Any], name: str) -> str:
    value = content.get(name)
    if value is not None and not isinstance(value, str):
        raise WrongColumns(f"{name}: wanted a string, got {kind_of_value(value)}")
    return value or ""


def kind_of_value(value: object) -> str:
    """What a value is, in words that show nothing of it: rows may hold secrets."""
    if isinstance(value, str):
        return f"a string of {counted(len(value), 'character')}" if value else "an empty string"
    if isinstance(value, list):
        return f"a list of {counted(len(value), 'entry', 'entries')}" if value else "an empty list"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, bool):
        return "true or false"
    return "null" if value is None else "a number" if isinstance(value, (int, float)) else f"a value of type {type(value).__name__}"


def got(content: dict[str, Any], name: str) -> str:
    """The kind of a field's value, or "nothing"."""
    return kind_of_value(content[name]) if name in content else "nothing"
