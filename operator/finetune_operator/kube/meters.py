"""Counters of the borders: requests to the API server, watches, tokens, events, reviews. Every label value is from a fixed set.

What passes decide is counted in `metrics`; this module knows nothing of jobs, so that every layer may use it.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from finetune_operator.kube.turns import Lane

_RESOURCES = frozenset(
    {
        "pods",
        "configmaps",
        "secrets",
        "events",
        "leases",
        "endpointslices",
        "finetunejobs",
        "finetunejobs/status",
        "tokenreviews",
        "resourcequotas",
        "validatingwebhookconfigurations",
        "jwks",
    }
)
_VERBS = ("GET", "LIST", "WATCH", "POST", "PATCH", "PUT", "DELETE")
_PLACE = re.compile(r"^(?:/api/[^/]+|/apis/[^/]+/[^/]+|/openid/[^/]+)(?:/namespaces/[^/]+)?/([^/]+)(?:/[^/]+/([^/]+))?")
_REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
TOKEN_REFUSALS = ("malformed", "unknown_key", "signature", "claims", "review", "busy")
WATCH_ENDS = ("closed", "expired", "refused", "silent")

Review = Callable[[dict[str, Any], dict[str, Any] | None], tuple[str | None, tuple[str, ...]]]


def resource_of(path: str) -> str:
    """Kind of thing that a path of the API names, `other` for one that we do not use."""
    found = _PLACE.match(path)
    if found is None:
        return "other"
    name = f"{found[1]}/{found[2]}" if found[2] else found[1]
    return name if name in _RESOURCES else "other"


class Meters:
    """One for each registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "finetune_operator_api_requests", "Requests to the API server", ["verb", "resource", "code"], registry=registry
        )
        self._request_seconds = Histogram(
            "finetune_operator_api_request_duration_seconds",
            "A request, without its wait",
            ["verb"],
            registry=registry,
            buckets=_REQUEST_SECONDS,
        )
        self._watches = Counter("finetune_operator_watches_ended", "Watches that ended", ["resource", "why"], registry=registry)
        self._dropped_fields = Counter(
            "finetune_operator_status_fields_dropped", "Fields that the API server refused", ["field"], registry=registry
        )
        self._tokens = Counter("finetune_operator_tokens_refused", "Tokens of members that were refused", ["why"], registry=registry)
        self._dropped_events = Counter("finetune_operator_events_dropped", "Events beyond a budget", registry=registry)
        self._reviews = Counter("finetune_operator_webhook_reviews", "Answers of the webhook", ["result"], registry=registry)
        self._writes_waiting = Gauge("finetune_operator_writes_waiting", "Writes that wait for their turn", ["lane"], registry=registry)
        for verb in _VERBS:
            self._request_seconds.labels(verb)
        for why in TOKEN_REFUSALS:
            self._tokens.labels(why)
        for end in WATCH_ENDS:
            self._watches.labels("pods", end)
        for result in ("allowed", "refused"):
            self._reviews.labels(result)

    def record_request(self, verb: str, path: str, code: int | None, seconds: float) -> None:
        """`code` None: no answer."""
        known = verb if verb in _VERBS else "other"
        self._requests.labels(known, resource_of(path), "none" if code is None else str(code)).inc()
        self._request_seconds.labels(known).observe(seconds)

    def record_watch_end(self, path: str, why: str) -> None:
        """`why` is one of WATCH_ENDS."""
        self._watches.labels(resource_of(path), why).inc()

    def record_dropped_field(self, field: str) -> None:
        """`field` is a name out of the schema of status."""
        self._dropped_fields.labels(field).inc()

    def record_refused_token(self, why: str) -> None:
        """`why` is one of TOKEN_REFUSALS."""
        self._tokens.labels(why).inc()

    def record_dropped_event(self) -> None:
        self._dropped_events.inc()

    def show_writes_waiting(self, num_waiting: Callable[[Lane], float]) -> None:
        for lane in Lane:
            self._writes_waiting.labels(lane.value).set_function(partial(num_waiting, lane))

    def counted(self, review: Review) -> Review:
        """The same review, and its answers are counted."""

        def reviewed(body: dict[str, Any], old: dict[str, Any] | None) -> tuple[str | None, tuple[str, ...]]:
            refusal, warnings = review(body, old)
            self._reviews.labels("allowed" if refusal is None else "refused").inc()
            return refusal, warnings

        return reviewed
