"""One containerd: its configuration, its start, and importing images into it.

The same runs in a node and, for a moment and with no node around it, to fill the store that all nodes start from (image_store.py).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from e2e.harness.processes import Processes
from e2e.harness.shell import CommandFailed, run, wait_until

KUBERNETES_NAMESPACE = "k8s.io"
PAUSE_IMAGE = "localhost/finetune-pause:1"
# restrict_oom_score_adj: without CAP_SYS_RESOURCE every sandbox would die of "can't get final child's PID from pipe".
CONFIGURATION = """\
version = 3
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.nri.v1.nri"]
[grpc]
  address = "{socket}"
[plugins.'io.containerd.cri.v1.runtime']
  disable_apparmor = true
  enable_selinux = false
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "{cni}"
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = "runc"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
        SystemdCgroup = false
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "{pause}"
[plugins.'io.containerd.grpc.v1.cri']
  disable_tcp_service = true
  stream_server_address = "127.0.0.1"
"""


@dataclass(frozen=True, kw_only=True)
class Containerd:
    """`root` holds images and outlives a run where it is the common store; `folder` holds the rest. All paths are absolute."""

    processes: Processes
    name: str
    group: str
    root: Path
    folder: Path

    @property
    def socket(self) -> Path:
        return self.folder / "containerd.sock"

    @property
    def state(self) -> Path:
        """What does not outlive a boot."""
        return self.folder / "containerd-state"

    def start(self, entering: tuple[str, ...] = ()) -> None:
        """Start it behind the command prefix `entering` and return when it answers."""
        self.launch(entering)
        self.wait_ready()

    def launch(self, entering: tuple[str, ...] = ()) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.root.mkdir(parents=True, exist_ok=True)
        configuration = self.folder / "containerd.toml"
        cni = self.folder / "cni"
        configuration.write_text(CONFIGURATION.format(root=self.root, state=self.state, socket=self.socket, cni=cni, pause=PAUSE_IMAGE))
        command: list[str | Path] = [*entering, self.processes.programs / "containerd", "--config", configuration, "--log-level", "warn"]
        self.processes.start(self.name, command, group=self.group)

    def wait_ready(self) -> None:
        def answers() -> bool:
            self.processes.require(self.name)
            return self.socket.exists() and self._answers()

        wait_until(f"{self.name}", answers, deadline_seconds=30, every_seconds=0.05)

    def stop(self) -> None:
        self.processes.stop(self.name, gracefully=True)

    def ctr(self, *arguments: str | Path) -> str:
        return run(self.processes.programs / "ctr", "--address", self.socket, "--namespace", KUBERNETES_NAMESPACE, *arguments)

    def import_archive(self, archive: Path) -> None:
        """Import an image archive and unpack it; layers are then kept unpacked only, which halves the disk used."""
        self.ctr("images", "import", "--local", "--discard-unpacked-layers", archive)

    def image_names(self) -> frozenset[str]:
        return frozenset(self.ctr("images", "list", "--quiet").split())

    def remove_images(self, names: Iterable[str]) -> None:
        for name in sorted(names):
            self.ctr("images", "remove", "--sync", name)

    def _answers(self) -> bool:
        try:
            self.ctr("version")
        except CommandFailed:
            return False
        return True
