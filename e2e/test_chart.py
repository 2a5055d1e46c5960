"""What Helm makes of the chart: rights, restrictions and the resource definition. No cluster is needed, only Helm itself."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.settings import read_settings

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "helm" / "finetune-operator"
Render = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def render(helm: Path) -> Render:
    """Objects of the chart in namespace `finetune-system`; arguments are `--set` values."""

    def rendered(*settings: str) -> list[dict[str, Any]]:
        answer = _template(helm, *settings)
        assert answer.returncode == 0, answer.stderr
        return [found for found in yaml.safe_load_all(answer.stdout) if found]

    return rendered


def test_lint_finds_nothing_to_warn_of(helm: Path) -> None:
    answer = subprocess.run([str(helm), "lint", "--strict", str(CHART)], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout


def test_rendering_twice_gives_the_same_text(helm: Path) -> None:
    assert _template(helm).stdout == _template(helm).stdout


def test_a_misspelt_value_stops_the_installation_and_is_named(helm: Path) -> None:
    answer = _template(helm, "replicaCounts=2")
    assert answer.returncode != 0
    assert "replicaCounts" in answer.stderr


def test_the_resource_definition_is_the_generated_one_and_is_kept(render: Render) -> None:
    definition = _only(render(), "CustomResourceDefinition")
    assert definition["spec"] == yaml.safe_load((ROOT / "crds" / "finetunejobs.yaml").read_text())["spec"]
    assert definition["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    kept_no_longer = _only(render("crds.keep=false"), "CustomResourceDefinition")
    assert "helm.sh/resource-policy" not in kept_no_longer["metadata"].get("annotations", {})
    assert not [found for found in render("crds.enabled=false") if found["kind"] == "CustomResourceDefinition"]


def test_the_operator_has_exactly_these_rights(render: Render) -> None:
    objects = render()
    assert set(_rights(objects, "ClusterRole", "finetune-operator")) == {
        "finetunejobs: get list watch",
        "finetunejobs/status: patch",
        "pods: get list watch create delete",
        "configmaps: get create patch",
        "events: create patch",
        "/openid/v1/jwks: get",
        "tokenreviews: create",
        "validatingwebhookconfigurations[finetune-operator]: get patch",
    }
    assert set(_rights(objects, "Role", "finetune-operator")) == {
        "leases[finetune-operator]: get update",
        "leases: create",
        "secrets[finetune-operator-ca]: get update",
        "secrets: create",
        "endpointslices[finetune-channel]: patch",
        "endpointslices: create",
    }


def test_a_list_of_namespaces_takes_every_right_on_pods_out_of_the_cluster_role(render: Render) -> None:
    objects = render("watchNamespaces={team-a,team-b}")
    assert not [
        right for right in _rights(objects, "ClusterRole", "finetune-operator") if right.startswith(("pods", "configmaps", "finetunejobs"))
    ]
    roles = [found for found in objects if found["kind"] == "Role" and found["metadata"]["name"] == "finetune-operator-jobs"]
    assert sorted(role["metadata"]["namespace"] for role in roles) == ["team-a", "team-b"]
    assert all(role["rules"] == roles[0]["rules"] for role in roles)
    assert _environment(objects)["FINETUNE_OPERATOR_WATCH_NAMESPACES"] == "team-a,team-b"


def test_the_operator_runs_under_restricted_pod_security(render: Render) -> None:
    pod = _only(render(), "Deployment")["spec"]["template"]["spec"]
    container = pod["containers"][0]["securityContext"]
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert container == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    assert all(set(volume) == {"name", "emptyDir"} for volume in pod["volumes"])


def test_only_the_leader_can_stand_behind_the_channel(render: Render) -> None:
    channel = next(found for found in render() if found["kind"] == "Service" and found["metadata"]["name"] == "finetune-channel")
    assert "selector" not in channel["spec"]


def test_the_webhook_lets_jobs_through_while_the_operator_is_away(render: Render) -> None:
    webhook = _only(render(), "ValidatingWebhookConfiguration")["webhooks"][0]
    assert (webhook["failurePolicy"], webhook["timeoutSeconds"], webhook["sideEffects"]) == ("Ignore", 5, "None")
    assert "caBundle" not in webhook["clientConfig"]
    assert "ValidatingWebhookConfiguration" not in {found["kind"] for found in render("webhook.enabled=false")}


def test_a_service_monitor_appears_only_where_its_kind_exists_or_is_forced(render: Render) -> None:
    monitor = "metrics.serviceMonitor.enabled=true"
    assert "ServiceMonitor" not in {found["kind"] for found in render(monitor)}
    assert "ServiceMonitor" in {found["kind"] for found in render(monitor, "metrics.serviceMonitor.renderMode=Always")}


def test_a_digest_wins_over_a_tag(render: Render) -> None:
    digest = f"sha256:{'0' * 64}"
    for setting, wanted in (("image.tag=v1", "finetune-operator:v1"), (f"image.digest={digest}", f"finetune-operator@{digest}")):
        pod = _only(render(setting), "Deployment")["spec"]["template"]["spec"]
        assert pod["containers"][0]["image"] == wanted


def test_the_operator_knows_every_variable_that_the_chart_sets(render: Render) -> None:
    objects = render("trainer.image=registry.example/trainer@sha256:1")
    from_fields = {
        "FINETUNE_OPERATOR_NAMESPACE": "system",
        "FINETUNE_OPERATOR_POD_NAME": "operator-1",
        "FINETUNE_OPERATOR_POD_IP": "10.0.0.1",
    }
    settings = read_settings({**_environment(objects), **from_fields})
    assert settings.trainer_image == "registry.example/trainer@sha256:1"
    assert settings.webhook_configuration == _only(objects, "ValidatingWebhookConfiguration")["metadata"]["name"]
    assert {settings.channel_service, settings.webhook_service} <= {
        found["metadata"]["name"] for found in objects if found["kind"] == "Service"
    }
    # Kubernetes' own variables for Services would be unknown ones.
    assert _only(objects, "Deployment")["spec"]["template"]["spec"]["enableServiceLinks"] is False


def _template(helm: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    chosen = [part for setting in settings for part in ("--set", setting)]
    command = [str(helm), "template", "finetune-operator", str(CHART), "--namespace", "finetune-system", *chosen]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _only(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    found = [entry for entry in objects if entry["kind"] == kind]
    assert len(found) == 1, [entry["metadata"]["name"] for entry in found]
    return found[0]


def _environment(objects: list[dict[str, Any]]) -> dict[str, Any]:
    container = _only(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


def _rights(objects: list[dict[str, Any]], kind: str, name: str) -> Iterator[str]:
    role = next(entry for entry in objects if entry["kind"] == kind and entry["metadata"]["name"] == name)
    for rule in role["rules"]:
        for resource in rule["resources"] if "resources" in rule else rule["nonResourceURLs"]:
            names = f"[{','.join(rule['resourceNames'])}]" if "resourceNames" in rule else ""
            yield f"{resource}{names}: {' '.join(rule['verbs'])}"
