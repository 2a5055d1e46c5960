"""The same cluster by kind, for a machine with a Docker engine, such as a laptop.

Untested where this harness is developed, because no Docker engine runs there. Cutting nodes and killing processes in pods are offered by
the self-built cluster only; tests that need them are skipped here.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from e2e.harness.home import Home
from e2e.harness.images import ImageBuilder, Images
from e2e.harness.processes import Processes
from e2e.harness.shell import phase, run, succeeds
from e2e.harness.toolchain import GoProgram, ensure_program, ensure_toolchain

NAME = "finetune-e2e"
KIND = GoProgram(name="kind", packages=("sigs.k8s.io/kind@v0.33.0",))
CONFIGURATION = {
    "kind": "Cluster",
    "apiVersion": "kind.x-k8s.io/v1alpha4",
    "nodes": [{"role": "control-plane"}, {"role": "worker"}, {"role": "worker"}],
}


@dataclass(frozen=True)
class KindCluster:
    """The Docker provider. Its control plane's node takes no pods, so two nodes do the work."""

    home: Home

    @property
    def kubeconfig(self) -> Path:
        return self.home.kubeconfig

    @property
    def host_address(self) -> str:
        networks = json.loads(run("docker", "network", "inspect", "kind"))
        gateways = (entry["Gateway"] for entry in networks[0]["IPAM"]["Config"] if "." in entry.get("Gateway", ""))
        return str(next(gateways))

    @property
    def processes(self) -> Processes:
        return Processes(self.home.run, self.home.bin)

    def up(self) -> Images:
        ensure_toolchain(self.home)
        ensure_program(self.home, KIND)
        self.down()
        self.home.run.mkdir(parents=True)
        with phase("cluster"):
            flags = ("--name", NAME, "--kubeconfig", str(self.kubeconfig), "--wait", "120s")
            run(self._kind, "create", "cluster", *flags, "--config", "-", stdin=json.dumps(CONFIGURATION))
        return self.refresh_images()

    def refresh_images(self) -> Images:
        builder = ImageBuilder(self.home)
        images = builder.ensure()
        for name in (images.operator, images.trainer):
            self.load_image(builder.archive(name))
        return images

    def down(self) -> None:
        self.processes.stop_all()
        if self._kind.exists():
            run(self._kind, "delete", "cluster", "--name", NAME)
        run("rm", "-rf", self.home.run)

    def is_up(self) -> bool:
        return self.kubeconfig.exists() and succeeds("kubectl", "--kubeconfig", self.kubeconfig, "get", "--raw", "/readyz")

    def load_image(self, archive: Path) -> None:
        run(self._kind, "load", "image-archive", archive, "--name", NAME)

    @property
    def _kind(self) -> Path:
        return self.home.bin / "kind"
