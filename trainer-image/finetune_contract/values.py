"""The base of every value that crosses a process border: frozen, keyword-only, tolerant of fields it does not know."""

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

__all__ = ["Value", "changed", "render_message"]

if TYPE_CHECKING:
    # The same signature: mypy holds every name and type against the fields of the value (record 031).
    from dataclasses import replace as changed
else:

    def changed(value: BaseModel, /, **changes: Any) -> BaseModel:
        """A copy of `value` with some fields changed; they are not validated again.

        Raises:
            TypeError: there is no such field.
        """
        unknown = changes.keys() - type(value).model_fields.keys()
        if unknown:
            raise TypeError(f"{type(value).__name__} has no field {', '.join(sorted(unknown))}")
        return value.model_copy(update=changes)


class Value(BaseModel):
    """Immutable value. Unknown fields are ignored, so that contract versions N and N-1 understand each other.

    No number is infinite or NaN, and an error names a field but never quotes what came: it may be a secret, or another tenant's.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null", allow_inf_nan=False, hide_input_in_errors=True)


def render_message(message: Value) -> str:
    """One line, without what is absent."""
    return message.model_dump_json(exclude_none=True)
