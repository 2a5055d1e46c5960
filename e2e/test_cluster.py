"""The ground holds: what every other test takes for granted of nodes, pods, network, names, tokens and the S3 store."""

import base64
import json
from typing import Any

import pytest

from e2e.fixtures import PrometheusApi
from e2e.harness.cluster import Cluster
from e2e.harness.images import Images
from e2e.harness.services import S3Settings
from e2e.product import JsonObject, Kubectl, NotReached, wait_until

AUDIENCE = "ground.finetune.dev"
SERVE = ["python", "-m", "http.server", "8080", "--directory", "/opt/finetune"]
FETCH = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5); print('reached')"
# A server listens a moment after its pod runs, and kube-proxy follows endpoints by a moment.
PATIENT_FETCH = f"""
import time
for attempt in range(40):
    try:
        exec({FETCH!r})
        break
    except OSError as error:
        print(error)
        time.sleep(0.25)
"""


def restricted_pod(name: str, image: str, command: list[str], **spec: Any) -> JsonObject:
    """A pod that Pod Security `restricted` admits; it runs once."""
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "Never",
        "command": command,
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": spec.pop("volumeMounts", []),
    }
    security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    labels = {"app": name}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": security,
            "containers": [container],
            "terminationGracePeriodSeconds": 1,
            **spec,
        },
    }


def output_of(namespace: Kubectl, pod: JsonObject) -> str:
    """Run a pod to its end and return what it printed."""
    name = pod["metadata"]["name"]
    created = namespace.apply(pod)
    assert created.returncode == 0, created.stderr

    def ended() -> JsonObject | None:
        found = namespace.get("pod", name)
        phase = found["status"]["phase"] if found else "absent"
        if phase == "Failed":
            raise NotReached(namespace.run("logs", name, check=False).stdout)
        return found if phase == "Succeeded" else None

    wait_until(f"the end of {name}", ended, deadline_seconds=60)
    return namespace.run("logs", name).stdout


def running(namespace: Kubectl, pod: JsonObject) -> JsonObject:
    """Create a pod and return it once it runs."""
    name = pod["metadata"]["name"]
    created = namespace.apply(pod)
    assert created.returncode == 0, created.stderr

    def is_running() -> JsonObject | None:
        found = namespace.get("pod", name)
        return found if found and found["status"]["phase"] == "Running" else None

    return dict(wait_until(f"{name} to run", is_running, deadline_seconds=60))


def test_three_nodes_are_ready(kubectl: Kubectl) -> None:
    nodes = kubectl.items("nodes")
    assert [node["metadata"]["name"] for node in nodes] == ["node1", "node2", "node3"]
    for node in nodes:
        assert {condition["type"]: condition["status"] for condition in node["status"]["conditions"]}["Ready"] == "True"


def test_the_clusters_version_is_the_one_that_was_built(kubectl: Kubectl) -> None:
    assert json.loads(kubectl.run("version", "-o", "json").stdout)["serverVersion"]["gitVersion"] == "v1.37.1"


def test_a_restricted_pod_runs_as_nobody_on_a_read_only_root(namespace: Kubectl, images: Images) -> None:
    script = "import os; print(os.getuid(), os.access('/opt/finetune', os.W_OK), os.access('/', os.W_OK))"
    assert output_of(namespace, restricted_pod("restricted", images.operator, ["python", "-c", script])).split() == [
        "65532",
        "False",
        "False",
    ]


def test_a_pod_that_is_not_restricted_is_refused(namespace: Kubectl, images: Images) -> None:
    pod = restricted_pod("loose", images.operator, ["true"])
    del pod["spec"]["securityContext"]["runAsNonRoot"]
    assert "runAsNonRoot" in namespace.apply(pod).stderr


@pytest.mark.parametrize("server_node", ["node1", "node2"])
def test_pods_reach_each_other_by_address_and_by_the_name_of_a_service(namespace: Kubectl, images: Images, server_node: str) -> None:
    server = running(namespace, restricted_pod("server", images.operator, SERVE, nodeName=server_node))
    service = {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8080}]}
    namespace.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "server"}, "spec": service})
    wait_until("the endpoint", lambda: addresses_of(namespace, "server"), deadline_seconds=20)
    urls = {"by-address": f"http://{server['status']['podIP']}:8080", "by-name": f"http://server.{namespace.namespace}.svc"}
    for name, url in urls.items():
        client = restricted_pod(name, images.operator, ["python", "-c", PATIENT_FETCH, url], nodeName="node2")
        assert "reached" in output_of(namespace, client)


def addresses_of(namespace: Kubectl, service: str) -> list[str]:
    slices = namespace.items("endpointslices", "-l", f"kubernetes.io/service-name={service}")
    return [address for found in slices for endpoint in found["endpoints"] or [] for address in endpoint["addresses"]]


def test_a_projected_token_names_its_audience_and_its_pod(namespace: Kubectl, images: Images) -> None:
    source = {"serviceAccountToken": {"audience": AUDIENCE, "expirationSeconds": 600, "path": "token"}}
    volumes = [{"name": "token", "projected": {"sources": [source]}}]
    mounts = [{"name": "token", "mountPath": "/token"}]
    command = ["python", "-c", "print(open('/token/token').read())"]
    token = output_of(namespace, restricted_pod("bearer", images.operator, command, volumes=volumes, volumeMounts=mounts)).strip()
    body = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    assert claims["aud"] == [AUDIENCE]
    assert claims["kubernetes.io"]["pod"]["name"] == "bearer"


def test_a_pod_reaches_the_s3_store(namespace: Kubectl, images: Images, s3: Any, s3_settings: S3Settings) -> None:
    s3.create_bucket(Bucket=namespace.namespace)
    s3.put_object(Bucket=namespace.namespace, Key="greeting", Body=b"reached")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": namespace.namespace, "Key": "greeting"})
    assert url.startswith(s3_settings.endpoint)
    script = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"
    assert output_of(namespace, restricted_pod("reader", images.operator, ["python", "-c", script, url])).strip() == "reached"


def test_the_images_hold_only_what_belongs_there(namespace: Kubectl, images: Images) -> None:
    script = "import importlib.util as i, sys; print(*(name for name in sys.argv[1:] if i.find_spec(name)))"
    names = ["finetune_operator", "finetune_contract", "finetune_trainer", "finetune_agent", "kopf", "torch", "kubernetes", "boto3"]
    command = ["python", "-c", script, *names]
    operator = output_of(namespace, restricted_pod("operator", images.operator, command)).split()
    trainer = output_of(namespace, restricted_pod("trainer", images.trainer, command)).split()
    assert operator == ["finetune_operator", "finetune_contract", "kopf"]
    assert trainer == ["finetune_contract", "finetune_trainer", "finetune_agent", "torch", "boto3"]


def test_a_process_in_a_pod_can_be_killed_from_outside(namespace: Kubectl, images: Images, nodes_under_control: Cluster) -> None:
    pod = running(namespace, restricted_pod("victim", images.operator, ["sleep", "600"], nodeName="node3"))
    nodes_under_control.kill_process_in_pod("node3", pod["metadata"]["uid"], name="sleep")
    wait_until("the pod's end", lambda: ended_by_kill(namespace, "victim"), deadline_seconds=20)


def ended_by_kill(namespace: Kubectl, name: str) -> bool:
    found = namespace.get("pod", name)
    states = found["status"].get("containerStatuses", []) if found else []
    return any(state["state"].get("terminated", {}).get("exitCode") == 137 for state in states)


def test_a_cut_node_is_reached_again_after_it_heals(namespace: Kubectl, images: Images, nodes_under_control: Cluster) -> None:
    server = running(namespace, restricted_pod("server", images.operator, SERVE, nodeName="node1"))
    # From the node, not through the API server, whose connections would survive a short cut.
    reach = ["python", "-c", FETCH, f"http://{server['status']['podIP']}:8080"]
    nodes_under_control.cut("node1")
    try:
        with pytest.raises(NotReached):
            output_of(namespace, restricted_pod("cut-off", images.operator, reach, nodeName="node2"))
    finally:
        nodes_under_control.heal("node1")
    assert "reached" in output_of(namespace, restricted_pod("healed", images.operator, reach, nodeName="node2"))


def test_prometheus_scrapes_pods_that_name_a_metrics_port(namespace: Kubectl, images: Images, prometheus: PrometheusApi) -> None:
    script = (
        "from prometheus_client import Gauge, start_http_server as s; Gauge('ground', '').set(7); s(8080); import time; time.sleep(600)"
    )
    pod = restricted_pod("measured", images.operator, ["python", "-c", script])
    pod["spec"]["containers"][0]["ports"] = [{"name": "metrics", "containerPort": 8080}]
    running(namespace, pod)
    found = wait_until("the series", lambda: prometheus.query('ground{pod="measured"}'), deadline_seconds=30)
    assert found[0]["value"][1] == "7"
