"""A value that the API server refuses is left out by field; the rest of the status is written, and intent is never dropped."""

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from finetune_operator.kube.client import ApiError
from finetune_operator.kube.meters import Meters
from finetune_operator.kube.status_writer import StatusWriter, not_finite, suspected, without


class Server:
    """Refuses a patch with an odd value below `status`, and names the field or not."""

    def __init__(self, *, names: bool = True, status: int = 422) -> None:
        self.names, self.status, self.now, self.bodies = names, status, 0.0, []
        self.registry = CollectorRegistry()
        self.writer = StatusWriter(self, Meters(self.registry), clock=lambda: self.now)  # type: ignore[arg-type]

    async def request(self, method: str, path: str, *, body: Any, content_type: str) -> Any:
        self.bodies.append(body)
        odd = tuple(f"status.{key}" for key, value in body["status"].items() if "odd" in str(value))
        if odd:
            raise ApiError(self.status, "Invalid", "odd", odd if self.names else ())
        return {"status": body["status"]}

    async def write(self, **status: Any) -> Any:
        return await self.writer.write("/status", {"metadata": {"uid": "u"}, "status": status})


@pytest.mark.parametrize("server", [Server(), Server(names=False), Server(names=False, status=400)])
async def test_the_rest_is_written_and_the_refused_field_is_not_sent_again_for_a_minute(server) -> None:
    answer = await server.write(members=[1], columns={"eta": "odd"})
    assert answer["status"] == {"members": [1]}
    sent = len(server.bodies)
    assert sent == 2
    for _ in range(100):
        assert await server.write(columns={"eta": "odd"}) is None
    assert len(server.bodies) == sent, "no request at all"
    assert server.registry.get_sample_value("finetune_operator_status_fields_dropped_total", {"field": "columns"}) == 1
    server.now = 61
    assert (await server.write(columns={"eta": "1m"}))["status"] == {"columns": {"eta": "1m"}}


async def test_a_number_that_json_does_not_know_is_left_out_before_it_is_sent() -> None:
    server = Server()
    answer = await server.write(progress={"step": 3, "loss": float("nan")}, warnings=[{"x": float("inf")}], phase="Training")
    assert answer["status"] == {"progress": {"step": 3}, "phase": "Training"}


async def test_intent_that_is_refused_is_an_error() -> None:
    with pytest.raises(ApiError):
        await Server().write(members=["odd"])


async def test_another_refusal_is_no_question_of_fields() -> None:
    server = Server(status=403)
    with pytest.raises(ApiError):
        await server.write(phase="odd")
    assert len(server.bodies) == 1


def test_fields_are_found_as_deep_as_a_merge_patch_can_leave_them_out() -> None:
    status = {"progress": {"loss": 1, "step": 2}, "conditions": [{"reason": "x"}], "members": []}
    assert suspected(status, ("status.progress.loss",)) == (("progress", "loss"),)
    assert suspected(status, ("status.conditions[0].reason", "status.members[0]")) == (("conditions",),)
    assert suspected(status, ("spec",)) == (("progress",), ("conditions",))
    assert without(status, (("progress", "loss"), ("conditions",))) == {"progress": {"step": 2}, "members": []}
    assert list(not_finite({"a": {"b": [1.0, {"c": float("-inf")}]}, "d": 1.0})) == [("a", "b")]
