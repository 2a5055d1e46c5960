"""Objects as the API server gives them: healthy by default, a test changes what its sentence is about."""

from datetime import UTC, datetime
from typing import Any

from finetune_operator.api.job import FineTuneJob

UID = "0a1b2c3d-1111-2222-3333-444455556666"


def merged(healthy: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`changes` over `healthy`, section by section; None removes."""
    result = dict(healthy)
    for key, change in changes.items():
        if change is None:
            result.pop(key, None)
        elif isinstance(change, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], change)
        else:
            result[key] = change
    return result


def job_object(**changes: Any) -> dict[str, Any]:
    healthy = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {
            "name": "support-bot",
            "namespace": "team-a",
            "uid": UID,
            "resourceVersion": "100",
            "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "model": {"uri": "hf://Qwen/Qwen3-8B"},
            "dataset": {"uri": "s3://data/support.jsonl"},
            "checkpoint": {"uri": "s3://ckpt/support-bot"},
            "output": {"uri": "s3://adapters/support-bot"},
        },
        "status": {"pinned": {"image": "trainer:1", "contractVersion": 1, "admittedAt": "2026-01-01T00:00:05Z"}},
    }
    return merged(healthy, changes)


def job(**changes: Any) -> FineTuneJob:
    return FineTuneJob.model_validate(job_object(**changes))


def pod_object(**changes: Any) -> dict[str, Any]:
    healthy = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "support-bot-0a1b-3",
            "namespace": "team-a",
            "uid": "pod-uid",
            "resourceVersion": "200",
            "creationTimestamp": "2026-01-01T00:01:00Z",
            "labels": {"finetune.dev/job": "support-bot", "finetune.dev/job-uid": UID, "finetune.dev/serial": "3"},
            "ownerReferences": [
                {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "name": "support-bot", "uid": UID, "controller": True}
            ],
        },
        "spec": {"nodeName": "node1"},
        "status": {
            "phase": "Running",
            "containerStatuses": [{"name": "agent", "state": {"running": {"startedAt": "2026-01-01T00:01:01Z"}}}],
        },
    }
    return merged(healthy, changes)


def terminated(**fields: Any) -> list[dict[str, Any]]:
    return [{"name": "agent", "state": {"terminated": fields}}]


def ended_pod(code: int, *, words: str = "", is_oom_killed: bool = False) -> dict[str, Any]:
    """A pod whose agent ended with this code and left `words` in its termination log."""
    reason = "OOMKilled" if is_oom_killed else "Completed" if code == 0 else "Error"
    statuses = terminated(exitCode=code, reason=reason, message=words)
    return pod_object(status={"phase": "Succeeded" if code == 0 else "Failed", "containerStatuses": statuses})


class Strangers:
    """What would be counted, in order."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def record_foreign_pod(self, why: str) -> None:
        self.seen.append(why)

    def record_unreadable(self, resource: str) -> None:
        self.seen.append(resource)


NOW = datetime(2026, 1, 2, tzinfo=UTC)
