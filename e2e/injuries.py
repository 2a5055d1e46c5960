"""How harm is done to a running job by benchmarks and chaos: at once, without waiting for kubectl to start, and healed on the way out.

Each injury is a context manager that takes `Hands` and a job and hurts on entry; it gives the moment (wall clock) at which it hurt, after
its victim was found. When its block ends, nodes and processes are well again.
"""

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from kubernetes import client, config

from e2e.faults import wait_node_ready
from e2e.fixtures import Product, worker_pids
from e2e.harness.cluster import Cluster
from e2e.product import Job, JsonObject, NotReached, wait_until

GROUP, VERSION, PLURAL = "finetune.dev", "v1alpha1", "finetunejobs"


@dataclass(frozen=True, kw_only=True)
class Hands:
    """What reaches nodes, processes and the API server. `chance` decides what is not said."""

    cluster: Cluster
    product: Product
    chance: random.Random = field(default_factory=lambda: random.Random(0))

    @cached_property
    def api(self) -> Any:
        return config.new_client_from_config(str(self.cluster.kubeconfig))

    def delete(self, pods: list[JsonObject], *, grace_seconds: int | None = None) -> float:
        """`grace_seconds` 0 forces; None: the pod's own. Returns when it began."""
        options = {} if grace_seconds is None else {"grace_period_seconds": grace_seconds}
        core, at = client.CoreV1Api(self.api), time.time()
        for metadata in (pod["metadata"] for pod in pods):
            with suppress(client.ApiException):  # gone already
                core.delete_namespaced_pod(metadata["name"], metadata["namespace"], **options)
        return at

    def status(self, job: Job) -> JsonObject:
        found: JsonObject = client.CustomObjectsApi(self.api).get_namespaced_custom_object(
            GROUP, VERSION, job.kubectl.namespace, PLURAL, job.name
        )
        status: JsonObject = found.get("status", {})
        return status

    def pods(self, job: Job) -> list[JsonObject]:
        """Live ones of the job, spares included."""
        core, selector = client.CoreV1Api(self.api), f"finetune.dev/job={job.name}"
        answer = core.list_namespaced_pod(job.kubectl.namespace, label_selector=selector, _preload_content=False)
        found: list[JsonObject] = json.loads(answer.data)["items"]
        return [pod for pod in found if pod["status"]["phase"] in {"Pending", "Running"} and "deletionTimestamp" not in pod["metadata"]]

    def crew(self, job: Job) -> list[JsonObject]:
        """Members of the newest formation, in node rank order."""
        by_serial = {pod["metadata"]["labels"]["finetune.dev/serial"]: pod for pod in self.pods(job)}
        serials = [str(serial) for serial in self.status(job)["formation"]["serials"]]
        if any(serial not in by_serial for serial in serials):
            raise NotReached(f"members {serials} of {job.name} do not all live")
        return [by_serial[serial] for serial in serials]

    def any_member(self, job: Job) -> JsonObject:
        return self.chance.choice(self.crew(job))

    def member_to_cut_off(self, job: Job) -> JsonObject:
        """On a node without the operator and without another pod of the job."""
        pods, crew = self.pods(job), self.crew(job)
        busy = {pod["spec"].get("nodeName") for pod in self.product.operator_pods()}
        nodes = [pod["spec"].get("nodeName") for pod in pods]
        alone = [pod for pod in crew if pod["spec"]["nodeName"] not in busy and nodes.count(pod["spec"]["nodeName"]) == 1]
        if not alone:
            raise NotReached(f"no member of {job.name} is alone on a node without the operator: {nodes}, operator on {busy}")
        return self.chance.choice(alone)


Injury = Callable[[Hands, Job], AbstractContextManager[float]]


@contextmanager
def worker_killed(hands: Hands, job: Job) -> Iterator[float]:
    yield tell(a_worker(hands, job), signal.SIGKILL)


@contextmanager
def worker_stopped(hands: Hands, job: Job) -> Iterator[float]:
    """Its agent kills it: there is nothing to continue."""
    yield tell(a_worker(hands, job), signal.SIGSTOP)


@contextmanager
def pod_deleted(hands: Hands, job: Job) -> Iterator[float]:
    yield hands.delete([hands.any_member(job)])


@contextmanager
def pod_force_deleted(hands: Hands, job: Job) -> Iterator[float]:
    yield hands.delete([hands.any_member(job)], grace_seconds=0)


@contextmanager
def all_force_deleted(hands: Hands, job: Job) -> Iterator[float]:
    yield hands.delete(hands.pods(job), grace_seconds=0)


@contextmanager
def node_cut_off(hands: Hands, job: Job) -> Iterator[float]:
    node = hands.member_to_cut_off(job)["spec"]["nodeName"]
    at = time.time()
    hands.cluster.cut(node)
    try:
        yield at
    finally:
        hands.cluster.heal(node)
        wait_node_ready(job.kubectl, node)


@contextmanager
def operator_killed_while_a_member_dies(hands: Hands, job: Job) -> Iterator[float]:
    victim = hands.any_member(job)
    hands.product.kill_operator()
    at = time.time()
    hands.cluster.kill_container(victim["spec"]["nodeName"], victim["metadata"]["uid"])
    yield at


def tell(pid: int, number: signal.Signals) -> float:
    at = time.time()
    os.kill(pid, number)
    return at


def a_worker(hands: Hands, job: Job) -> int:
    """Pid of a rank of a random member."""
    uid = hands.any_member(job)["metadata"]["uid"]
    return int(wait_until("a worker process", lambda: worker_pids(uid), deadline_seconds=20)[0])
