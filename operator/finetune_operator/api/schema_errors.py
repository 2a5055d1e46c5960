"""Turns pydantic's findings into sentences for users: the field as they wrote it, what came, what was wanted."""

import difflib
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from finetune_contract.plurals import counted
from finetune_operator.api.envelope import shown
from finetune_operator.api.other_tools import counterpart_of
from finetune_operator.api.quantities import QUANTITY_PATTERN
from finetune_operator.api.spec_error import SpecError
from finetune_operator.api.syntax import MEANING
from finetune_operator.api.yaml_reader import render_path

_MOST_EXPLAINED = 500  # each costs 0.1 ms, and the webhook's time is everybody's
_OF_QUANTITY = {"constrained-str", "constrained-int", "str", "int"}  # what pydantic calls the two forms
_WANTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}


def explain(error: ValidationError, model: type[BaseModel]) -> Iterator[SpecError]:
    """One SpecError a field; alternatives of a union are told once. Of many thousand errors the first are enough."""
    seen: set[str] = set()
    for detail in error.errors(include_url=False)[:_MOST_EXPLAINED]:
        place = detail["loc"]
        is_quantity = len(place) > 1 and place[-1] in _OF_QUANTITY and place[0] == "resources"
        path = render_path(("spec", *(place[:-1] if is_quantity else place)))
        if path in seen:
            continue
        seen.add(path)
        yield SpecError(path, _not_a_quantity(detail["input"]) if is_quantity else _sentence(detail, model))


def _not_a_quantity(value: Any) -> str:
    if isinstance(value, float):
        return f"got {value}, wanted a string or an integer; write it in quotes, or as a whole number with a unit (1500m is 1.5)"
    return f"got {shown(value)}, wanted {MEANING[QUANTITY_PATTERN]}"


def _sentence(detail: ErrorDetails, model: type[BaseModel]) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "missing":
        return "is required"
    if kind == "extra_forbidden":
        return _unknown_field(str(detail["loc"][-1]), _model_at(model, detail["loc"][:-1]))
    if kind == "literal_error":
        return f"got {_in_quotes(value)}, wanted one of {str(context['expected']).replace(' or ', ', ')}"
    if kind == "string_pattern_mismatch":
        return f"got {_in_quotes(value)}, wanted {MEANING.get(context['pattern'], context['pattern'])}"
    if kind in _WANTED:
        return f"got {shown(value)}, wanted {_WANTED[kind]}{_hint(kind, value)}"
    return f"got {shown(value)}, wanted {_bound(detail)}"


def _hint(kind: str, value: Any) -> str:
    if kind == "tuple_type" and isinstance(value, str):
        return f"; write it as a list: [{value}]"
    if kind == "string_type" and isinstance(value, bool | int | float):
        return "; put it in quotes"
    return "; remove the quotes" if kind != "string_type" and isinstance(value, str) and _is_number(value) else ""


def _in_quotes(value: Any) -> str:
    return repr(value) if isinstance(value, str) else shown(value)


def _bound(detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    for key, text in words.items():
        if key in context:
            return f"{text} {context[key]}"
    noun, plural = ("character", "characters") if detail["type"].startswith("string") else ("entry", "entries")
    if "max_length" in context:
        return f"at most {counted(context['max_length'], noun, plural)}"
    if "min_length" in context:
        return f"at least {counted(context['min_length'], noun, plural)}"
    return detail["msg"]


def _unknown_field(name: str, owner: type[BaseModel] | None) -> str:
    if counterpart := counterpart_of(name):
        return f"unknown field; {counterpart}"
    known = [field.alias or key for key, field in owner.model_fields.items()] if owner else []
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    advice = f"did you mean {close[0]}?" if close else f"known here: {', '.join(sorted(known))}"
    return f"unknown field; {advice}"


def _model_at(model: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel] | None:
    current: type[BaseModel] | None = model
    for part in path:
        if current is None or isinstance(part, int):
            continue
        field = next((field for key, field in current.model_fields.items() if part in {key, field.alias}), None)
        current = _model_of(field.annotation) if field else None
    return current


def _model_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_of(inner)) is not None), None)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
