"""The base of every value that crosses a process border: frozen, keyword-only, tolerant of fields it does not know."""

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """Immutable value. Unknown fields are ignored, so that contract versions N and N-1 understand each other."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="constants")
