"""The base of every value that crosses a process border: frozen, keyword-only, tolerant of fields it does not know."""

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """Immutable value. Unknown fields are ignored, so that contract versions N and N-1 understand each other.

    No number is infinite or NaN, and an error names a field but never quotes what came: it may be a secret, or another tenant's.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null", allow_inf_nan=False, hide_input_in_errors=True)
