"""Fixtures over a running cluster: the product installed by Helm, teams with buckets, Prometheus, and ways to do harm."""

import base64
import json
import subprocess
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from e2e.product import RELEASE, SYSTEM, JsonObject, Kubectl, Team, wait_until

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "helm" / "finetune-operator"


@dataclass(frozen=True, kw_only=True)
class Product:
    """The operator as a platform team runs it."""

    kubectl: Kubectl
    helm: Path
    operator_image: str
    trainer_image: str

    def install(self) -> None:
        """`helm install`, then wait until the operator is ready."""
        operator, trainer = self.operator_image.rsplit(":", 1), self.trainer_image
        settings = [
            f"image.repository={operator[0]}",
            f"image.tag={operator[1]}",
            "image.pullPolicy=IfNotPresent",
            f"trainer.image={trainer}",
        ]
        flags = [part for setting in settings for part in ("--set", setting)]
        self._helm("upgrade", "--install", RELEASE, str(CHART), "-n", SYSTEM, "--create-namespace", *flags, "--wait", "--timeout", "120s")
        self.kubectl.run("label", "namespace", SYSTEM, "pod-security.kubernetes.io/enforce=restricted", "--overwrite")

    def uninstall(self) -> None:
        self._helm("uninstall", RELEASE, "-n", SYSTEM)

    def operator_pods(self) -> list[JsonObject]:
        return self.kubectl.within(SYSTEM).items("pods", "-l", f"app.kubernetes.io/instance={RELEASE}")

    def kill_operator(self) -> None:
        """Force-delete the operator's pod; its Deployment brings a new one."""
        for pod in self.operator_pods():
            self.kubectl.within(SYSTEM).run("delete", "pod", pod["metadata"]["name"], "--force", "--grace-period=0")

    def leader(self) -> JsonObject:
        """The pod that holds the lease."""

        def find() -> JsonObject | None:
            lease = self.kubectl.within(SYSTEM).get("lease", "finetune-operator")
            holder = lease["spec"].get("holderIdentity") if lease else None
            return next((pod for pod in self.operator_pods() if pod["metadata"]["name"] == holder), None)

        found: JsonObject = wait_until("a leader", find, deadline_seconds=60)
        return found

    @contextmanager
    def replicas(self, number: int) -> Iterator[None]:
        """So many operators, all ready, for a block; then one again."""
        self._scale(number)
        try:
            yield
        finally:
            self._scale(1)

    def _scale(self, number: int) -> None:
        system, selector = self.kubectl.within(SYSTEM), f"app.kubernetes.io/instance={RELEASE}"
        system.run("scale", "deployment", "-l", selector, f"--replicas={number}")
        system.run("rollout", "status", "deployment", "-l", selector, "--timeout=90s")
        wait_until(f"{number} operators", lambda: len(self.operator_pods()) == number, deadline_seconds=60)

    def _helm(self, *arguments: str) -> None:
        command = [str(self.helm), "--kubeconfig", str(self.kubectl.kubeconfig), *arguments]
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
        assert answer.returncode == 0, f"helm {arguments[0]}: {answer.stderr}"


@dataclass(frozen=True)
class PrometheusApi:
    """The query API of the Prometheus that scrapes the operator."""

    url: str

    def query(self, expression: str) -> list[JsonObject]:
        with urllib.request.urlopen(f"{self.url}/api/v1/query?query={urllib.parse.quote(expression)}", timeout=10) as answer:
            found: list[JsonObject] = json.load(answer)["data"]["result"]
        return found


@pytest.fixture(scope="session")
def product(cluster: Any, images: Any, helm: Path) -> Iterator[Product]:
    kubectl = Kubectl(kubeconfig=cluster.kubeconfig)
    installed = Product(kubectl=kubectl, helm=helm, operator_image=images.operator, trainer_image=images.trainer)
    installed.install()
    yield installed
    for namespace in kubectl.items("namespaces", "-l", "finetune.dev/e2e=team"):
        kubectl.within(namespace["metadata"]["name"]).run("delete", "finetunejobs", "--all", "--wait=false", check=False)
    installed.uninstall()


@pytest.fixture(scope="session")
def inputs(s3: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tiny models and our rows in S3, as a team would have them."""
    from examples.make_tiny_model import make_tiny_model

    existing = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    for bucket in {"models", "data"} - existing:
        s3.create_bucket(Bucket=bucket)
    for architecture in ("qwen3", "llama"):
        folder = tmp_path_factory.mktemp(architecture)
        make_tiny_model(folder, architecture=architecture)
        for file in folder.iterdir():
            s3.upload_file(str(file), "models", f"{architecture}-tiny/{file.name}")
    rows = (ROOT / "examples" / "support" / "rows.jsonl").read_bytes().splitlines(keepends=True)
    s3.put_object(Bucket="data", Key="support.jsonl", Body=b"".join(rows))
    s3.put_object(Bucket="data", Key="endless.jsonl", Body=b"".join(rows * 5))  # 1000 epochs outlast 20 minutes on any machine
    s3.put_object(Bucket="data", Key="held-out.jsonl", Body=b"".join(rows[:20]))


@pytest.fixture
def team(product: Product, inputs: None, s3: Any, s3_settings: Any) -> Iterator[Team]:
    yield from make_team(product, s3, s3_settings)


@pytest.fixture(scope="module")
def module_team(product: Product, inputs: None, s3: Any, s3_settings: Any) -> Iterator[Team]:
    yield from make_team(product, s3, s3_settings)


@pytest.fixture(scope="session")
def session_team(product: Product, inputs: None, s3: Any, s3_settings: Any) -> Iterator[Team]:
    yield from make_team(product, s3, s3_settings)


def make_team(product: Product, s3: Any, s3_settings: Any) -> Iterator[Team]:
    """A fresh namespace and bucket; both are removed with all jobs in them."""
    name = f"team-{uuid.uuid4().hex[:6]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "finetune.dev/e2e": "team"}
    product.kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    kubectl = product.kubectl.within(name)
    keys = {"AWS_ACCESS_KEY_ID": s3_settings.access_key, "AWS_SECRET_ACCESS_KEY": s3_settings.secret_key}
    data = {key: base64.b64encode(value.encode()).decode() for key, value in keys.items()}
    kubectl.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3-credentials"}, "data": data})
    s3.create_bucket(Bucket=name)
    team = Team(kubectl=kubectl, endpoint=s3_settings.endpoint, bucket=name)
    yield team
    for job in team.jobs:
        job.delete()
    product.kubectl.run("delete", "namespace", name, "--wait=false", check=False)


@pytest.fixture(scope="session")
def free_cpu(cluster: Any, product: Product) -> float:
    """Allocatable cores of the smallest node."""
    cpus = [node["status"]["allocatable"]["cpu"] for node in product.kubectl.items("nodes")]
    return min(float(cpu[:-1]) / 1000 if cpu.endswith("m") else float(cpu) for cpu in cpus)


@pytest.fixture
def kill_worker() -> Callable[[JsonObject], None]:
    """kill -9 one training worker of a pod, from the node: the deepest process below the pod's agent."""
    return lambda pod: kill_one_worker(pod["metadata"]["uid"])


def kill_one_worker(pod_uid: str) -> None:
    workers = wait_until("a worker process", lambda: worker_pids(pod_uid), deadline_seconds=20)
    subprocess.run(["kill", "-9", str(workers[0])], check=True)


def worker_pids(pod_uid: str) -> list[int]:
    """Processes in the pod's cgroup that have RANK of a formation in their name or environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            in_pod = pod_uid in (folder / "cgroup").read_text() or pod_uid.replace("-", "_") in (folder / "cgroup").read_text()
            if in_pod and (folder / "comm").read_text().strip() == "finetune-rank":
                found.append(int(folder.name))
        except OSError:
            continue
    return sorted(found)
