"""The pod of a member: one golden file for the whole, and the parts that depend on the job."""

import os
from pathlib import Path

import pytest
import yaml
from tests.kube.builders import UID, job

from finetune_operator.api.render_config import render_config
from finetune_operator.decide.facts.policy import PodDecoration
from finetune_operator.kube.configmaps import render_channel_map, render_config_map
from finetune_operator.kube.pods import render_pod

GOLDEN = Path(__file__).parent.parent / "golden" / "pod.yaml"
FULL = {
    "model": {"uri": "pvc://models/qwen3"},
    "resources": {
        "nodes": {"min": 2, "max": 4},
        "processesPerNode": 8,
        "requests": {"cpu": 16, "memory": "128Gi"},
        "limits": {"nvidia.com/gpu": 8},
    },
    "dataset": {"uri": "configmap://rows/train.jsonl", "evalUri": "configmap://rows/held-out.jsonl"},
    "storage": {"endpoint": "https://s3.example", "secretName": "s3-credentials"},
    "tracking": {"reportTo": ["wandb"], "secretName": "wandb"},
    "placement": {
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "priorityClassName": "training",
        "runtimeClassName": "nvidia",
        "imagePullSecrets": ["registry"],
        "labels": {"team": "a", "finetune.dev/serial": "99"},
        "annotations": {"note": "x"},
    },
}


def test_the_whole_pod_is_as_in_the_golden_file() -> None:
    rendered = yaml.safe_dump(render_pod(job(spec=FULL), 7), sort_keys=False)
    if "UPDATE_GOLDEN" in os.environ:
        GOLDEN.write_text(rendered)
    assert rendered == GOLDEN.read_text()


def test_a_decoration_goes_before_the_users_words_and_after_the_operators() -> None:
    decoration = PodDecoration(
        labels={"team": "b", "queue": "q", "finetune.dev/serial": "99"},
        annotations={"note": "y", "seat": "1"},
        scheduling_gates=("x/held",),
    )
    plain, decorated = render_pod(job(spec=FULL), 7), render_pod(job(spec=FULL), 7, decoration)
    assert decorated["metadata"].pop("labels") == plain["metadata"].pop("labels") | {"team": "b", "queue": "q"}
    assert decorated["metadata"].pop("annotations") == {"note": "y", "seat": "1"}
    assert plain["metadata"].pop("annotations") == {"note": "x"}
    assert decorated["spec"].pop("schedulingGates") == [{"name": "x/held"}]
    assert decorated == plain


def container(**spec) -> dict:
    return render_pod(job(spec=spec), 1)["spec"]["containers"][0]


def mounts(**spec) -> dict[str, bool]:
    """Claims that are mounted: path -> read-only."""
    found = {mount["mountPath"]: mount.get("readOnly", False) for mount in container(**spec)["volumeMounts"]}
    return {path: read_only for path, read_only in found.items() if path.startswith("/mnt/pvc")}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, {}),
        ({"model": {"uri": "pvc://models/a"}}, {"/mnt/pvc/models": True}),
        ({"checkpoint": {"uri": "pvc://state/a"}}, {"/mnt/pvc/state": False}),
        ({"dataset": {"uri": "pvc://all/rows.jsonl"}, "output": {"uri": "pvc://all/adapter"}}, {"/mnt/pvc/all": False}),
        ({"model": {"uri": "pvc://models/a"}, "dataset": {"uri": "pvc://models/b"}}, {"/mnt/pvc/models": True}),
    ],
)
def test_claims_are_mounted_and_read_only_for_inputs_alone(spec, expected) -> None:
    assert mounts(**spec) == expected


@pytest.mark.parametrize(
    ("resources", "requests"),
    [
        ({}, {"cpu": "1", "memory": "4Gi"}),
        ({"requests": {"nvidia.com/gpu": 1}}, {"nvidia.com/gpu": "1", "cpu": "1", "memory": "4Gi"}),
        ({"requests": {"cpu": 2}, "limits": {"memory": "8Gi"}}, {"cpu": "2"}),
    ],
)
def test_cpu_and_memory_are_always_set(resources, requests) -> None:
    assert container(resources=resources)["resources"]["requests"] == requests


def test_without_a_secret_nothing_of_credentials_is_mounted() -> None:
    rendered = container()
    assert "FINETUNE_CREDENTIALS_DIR" not in {variable["name"] for variable in rendered["env"]}
    assert "credentials" not in {mount["name"] for mount in rendered["volumeMounts"]}


@pytest.mark.parametrize(
    ("tracking", "folder"),
    [({}, None), ({"reportTo": ["wandb"]}, "/etc/finetune/credentials"), ({"secretName": "w"}, None)],
    ids=["absent", "key in the storage Secret", "nobody is told"],
)
def test_the_key_of_a_tracker_is_mounted_only_if_somebody_is_told(tracking, folder) -> None:
    rendered = container(storage={"secretName": "s3"}, tracking=tracking)
    told = {variable["name"]: variable.get("value") for variable in rendered["env"]}
    assert told.get("FINETUNE_TRACKING_DIR") == folder
    assert "tracking" not in {mount["name"] for mount in rendered["volumeMounts"]}


def test_workload_identity_needs_its_service_account_and_still_no_api_token() -> None:
    spec = render_pod(job(spec={"storage": {"serviceAccountName": "trainer"}}), 1)["spec"]
    assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("trainer", False)


def test_the_users_toleration_of_a_lost_node_wins() -> None:
    mine = {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "tolerationSeconds": 5}
    found = render_pod(job(spec={"placement": {"tolerations": [mine]}}), 1)["spec"]["tolerations"]
    seconds = {entry["key"]: entry["tolerationSeconds"] for entry in found}
    assert seconds == {"node.kubernetes.io/unreachable": 5, "node.kubernetes.io/not-ready": 60}


def test_config_maps_are_owned_by_the_job_and_only_the_configuration_is_fixed() -> None:
    one = job()
    config, channel = render_config_map(one, render_config(one)), render_channel_map(one, "wss://x/channel", "PEM")
    assert (config["metadata"]["name"], config["immutable"]) == ("support-bot-0a1b2c3d", True)
    assert (channel["metadata"]["name"], channel.get("immutable")) == ("support-bot-0a1b2c3d-channel", None)
    assert channel["data"] == {"url": "wss://x/channel", "ca.crt": "PEM"}
    assert {owner["uid"] for owner in config["metadata"]["ownerReferences"] + channel["metadata"]["ownerReferences"]} == {UID}
