"""One AdmissionReview of the API server, from bytes to bytes. It judges nothing itself, and keeps nothing of what came."""

import json
from collections.abc import Callable
from typing import Any

from finetune_operator.api.job import GROUP, PLURAL

JsonObject = dict[str, Any]
Validate = Callable[[Any, JsonObject | None], tuple[str | None, tuple[str, ...]]]  # (refusal, warnings)
_API_VERSION, _KIND = "admission.k8s.io/v1", "AdmissionReview"
_JUDGED = {"CREATE", "UPDATE"}
_MAX_UID_LENGTH = 128
_UNPROCESSABLE = 422


class NotAReview(Exception):
    """What came is no review of a FineTuneJob; the message says what was wanted."""


def answer_review(body: bytes, validate: Validate) -> bytes:
    """The answer to `body`. Raises NotAReview."""
    request = _parse(body)
    response: JsonObject = {"uid": request["uid"], "allowed": True}
    if request.get("operation") in _JUDGED and not request.get("subResource"):
        old = request.get("oldObject")
        refusal, warnings = validate(request.get("object"), old if isinstance(old, dict) else None)
        if warnings:
            response["warnings"] = list(warnings)
        if refusal is not None:
            response |= {"allowed": False, "status": {"code": _UNPROCESSABLE, "message": refusal}}
    return json.dumps({"apiVersion": _API_VERSION, "kind": _KIND, "response": response}).encode()


def _parse(body: bytes) -> JsonObject:
    try:
        review = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise NotAReview("wanted JSON") from error
    request = review.get("request") if isinstance(review, dict) else None
    if not isinstance(request, dict) or review.get("apiVersion") != _API_VERSION or review.get("kind") != _KIND:
        raise NotAReview(f"wanted an object of kind {_KIND}, version {_API_VERSION}, with a request")
    uid, resource = request.get("uid"), request.get("resource")
    if not isinstance(uid, str) or not 0 < len(uid) <= _MAX_UID_LENGTH:
        raise NotAReview(f"request.uid: wanted a string of 1 to {_MAX_UID_LENGTH} characters")
    if not isinstance(resource, dict) or (resource.get("group"), resource.get("resource")) != (GROUP, PLURAL):
        raise NotAReview(f"request.resource: wanted {PLURAL}.{GROUP}")
    return request
