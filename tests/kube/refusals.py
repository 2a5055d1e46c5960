"""Answers of an API server that are no success, as it words them: metav1.Status."""

from typing import Any

JsonObject = dict[str, Any]


class Refusal(Exception):
    """`fields` are the paths that it objects to, `retry_after` the header of that name."""

    def __init__(self, status: int, reason: str, message: str, *, fields: tuple[str, ...] = (), retry_after: str | None = None) -> None:
        super().__init__(message)
        self.status, self.reason, self.fields = status, reason, fields
        self.headers = {} if retry_after is None else {"Retry-After": retry_after}

    @property
    def body(self) -> JsonObject:
        details = {"causes": [{"reason": "FieldValueInvalid", "field": field} for field in self.fields]}
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": str(self),
            "reason": self.reason,
            "code": self.status,
            **({"details": details} if self.fields else {}),
        }
