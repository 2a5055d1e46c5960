"""Turns pydantic's findings into sentences for users: the field as they wrote it, what came, what was wanted."""

import difflib
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from finetune_operator.api.spec_error import SpecError
from finetune_operator.api.yaml_reader import render_path

_JSON_NAMES = {str: "a string", bool: "a boolean", int: "an integer", float: "a number", list: "a list", dict: "an object"}
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

# What people look for and is not there; spelt without underscores, in lower case.
_QLORA = "QLoRA is not there: the base model is kept in bf16 or fp32 (training.precision); leave the field out"
_NO_METHOD = "there is one method, supervised fine-tuning with LoRA; leave the field out"
_ABSENT = {
    **dict.fromkeys(("qlora", "quantization", "quantize", "quantized", "loadin4bit", "loadin8bit", "bits", "bnb4bitquanttype"), _QLORA),
    **dict.fromkeys(("method", "dpo", "orpo", "kto", "grpo", "rlhf"), _NO_METHOD),
    **dict.fromkeys(("dora", "usedora"), "DoRA is not there (vLLM does not serve it either); leave the field out"),
    **dict.fromkeys(
        ("queue", "queuename", "localqueue"), "Kueue queues are not there; jobs wait in a line of their own, by priority and age"
    ),
}


def explain(error: ValidationError, model: type[BaseModel]) -> Iterator[SpecError]:
    """One SpecError a field; alternatives of a union are told once."""
    seen: set[str] = set()
    for detail in error.errors():
        path = render_path(("spec", *(part for part in detail["loc"] if part not in {"str", "int"})))
        if path in seen:
            continue
        seen.add(path)
        yield SpecError(path, _sentence(detail, model))


def _sentence(detail: ErrorDetails, model: type[BaseModel]) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "missing":
        return "is required"
    if kind == "extra_forbidden":
        return _unknown_field(str(detail["loc"][-1]), _model_at(model, detail["loc"][:-1]))
    if kind == "literal_error":
        return f"got {value!r}, wanted one of {str(context['expected']).replace(' or ', ', ')}"
    if kind in _WANTED:
        hint = "; remove the quotes" if isinstance(value, str) and _is_number(value) and "string" not in kind else ""
        return f"got {_shown(value)}, wanted {_WANTED[kind]}{hint}"
    return f"got {_shown(value)}, wanted {_bound(detail)}"


def _bound(detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    for key, text in words.items():
        if key in context:
            return f"{text} {context[key]}"
    if "max_length" in context:
        return f"at most {context['max_length']} characters or entries"
    if "min_length" in context:
        return f"at least {context['min_length']} characters or entries"
    return detail["msg"]


def _unknown_field(name: str, owner: type[BaseModel] | None) -> str:
    if absent := _ABSENT.get(name.replace("_", "").lower()):
        return f"unknown field; {absent}"
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


def _shown(value: Any) -> str:
    kind = _JSON_NAMES.get(type(value))
    if isinstance(value, dict | list):
        return str(kind)
    return f"the string {value!r}" if isinstance(value, str) else repr(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
