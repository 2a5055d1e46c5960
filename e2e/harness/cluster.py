"""A Kubernetes cluster of our own on this machine: control plane on the host, nodes in namespaces, nothing left afterwards."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from e2e.harness import cgroups, network, sysctls
from e2e.harness.controlplane import count_ready_nodes, create_control_plane
from e2e.harness.home import Home
from e2e.harness.image_store import ImageStore
from e2e.harness.images import ImageBuilder, Images
from e2e.harness.network import HOST_ADDRESS, Place
from e2e.harness.node import Node, remove_mount_points
from e2e.harness.processes import Processes, first_process
from e2e.harness.shell import phase, succeeds, wait_until
from e2e.harness.toolchain import ensure_toolchain, kubectl

NUM_NODES = 3
HOG = "taken = []\nwhile True: taken.append(b'x' * (1 << 24))"
PLACES = tuple(Place(number) for number in range(1, NUM_NODES + 1))


@dataclass
class Cluster:
    """The self-built provider. Only one can run on a machine: links, addresses and control groups have fixed names."""

    home: Home
    processes: Processes = field(init=False)

    def __post_init__(self) -> None:
        self.processes = Processes(self.home.run, self.home.bin)

    @property
    def kubeconfig(self) -> Path:
        """An administrator's; it needs no other file."""
        return self.home.kubeconfig

    @property
    def host_address(self) -> str:
        """Where pods reach servers of this machine."""
        return HOST_ADDRESS

    @cached_property
    def nodes(self) -> dict[str, Node]:
        nodes = (Node(home=self.home, processes=self.processes, place=place) for place in PLACES)
        return {node.name: node for node in nodes}

    def up(self) -> Images:
        """From nothing, or from what a crashed run left, to three nodes Ready with our images and a name server."""
        with phase("toolchain"):
            ensure_toolchain(self.home)
        self.down()
        with phase("images"):
            images = ImageBuilder(self.home).ensure()
        self.home.run.mkdir(parents=True)
        sysctls.save(self.home)
        sysctls.allow_forwarding()
        cgroups.create("control")
        network.create_bridge()
        with phase("cluster"):
            self._start()
        return images

    def down(self) -> None:
        """End every process of ours and remove all they used; safe at any time and after any crash."""
        self.processes.stop_all()
        network.remove_links(PLACES)
        cgroups.remove()
        remove_mount_points()
        sysctls.restore(self.home)
        if self.home.run.exists():
            shutil.rmtree(self.home.run)

    def is_up(self) -> bool:
        """A cluster of an earlier, kept run answers and has all its nodes."""
        return self.kubeconfig.exists() and self._api_server_answers() and count_ready_nodes(self.home) == NUM_NODES

    def refresh_images(self) -> Images:
        """Build our images again from the present code and put the layers that are new on the nodes."""
        builder, present = ImageBuilder(self.home), ImageStore(self.home).layers()
        images = builder.ensure()
        first = next(iter(self.nodes.values()))
        for name in {images.operator, images.trainer} - first.containerd.image_names():
            archive = self.home.run / "image.tar"
            builder.layout.write_archive(name, archive, without=present)
            self.load_image(archive)
            archive.unlink()
        return images

    def load_image(self, archive: Path) -> None:
        """Import an image archive into every node."""
        for node in self.nodes.values():
            node.containerd.import_archive(archive)

    def cut(self, node: str) -> None:
        """Nobody reaches the node and it reaches nobody; its pods run on. NotReady after about 50 s."""
        network.cut(self.nodes[node].place)

    def heal(self, node: str) -> None:
        network.heal(self.nodes[node].place)

    def stop_kubelet(self, node: str) -> None:
        self.nodes[node].stop_kubelet()

    def resume_kubelet(self, node: str) -> None:
        self.nodes[node].resume_kubelet()

    def power_off(self, node: str) -> None:
        """All processes of the node end at once, pods included."""
        self.nodes[node].power_off()

    def power_on(self, node: str) -> None:
        """The node comes back with its disk and without its pods."""
        self.nodes[node].power_on(PLACES)

    def restart_api_server(self) -> None:
        """It ends at once; returns when the next one answers."""
        self.processes.restart("apiserver")
        wait_until("the API server", self._api_server_answers, deadline_seconds=60, every_seconds=0.2)

    def processes_in_pod(self, node: str, pod_uid: str) -> tuple[int, ...]:
        """Pids, as the host counts them, of a pod's processes."""
        return cgroups.pids_below(node, containing=f"pod{pod_uid}")

    def log_of_pod(self, node: str, pod_uid: str) -> str:
        """All that its containers wrote, read where the kubelet keeps it: also of a pod that the API server does not know any more."""
        files = sorted((self.nodes[node].folder / "pod-logs").glob(f"*_{pod_uid}/*/*.log"))
        return "".join(file.read_text(errors="replace") for file in files)

    def kill_process_in_pod(self, node: str, pod_uid: str, *, name: str) -> int:
        """SIGKILL to the process with the highest pid in a pod whose command name is `name`. Returns its pid; raises LookupError."""
        return cgroups.kill_one(self.processes_in_pod(node, pod_uid), name=name)

    def kill_container(self, node: str, pod_uid: str) -> int:
        """SIGKILL to process 1 of a pod's container, with which the kernel ends all others in it. Returns its pid; raises LookupError."""
        pid = first_process(self.processes_in_pod(node, pod_uid))
        os.kill(pid, signal.SIGKILL)
        return pid

    @contextmanager
    def memory_hog(self, node: str, pod_uid: str) -> Iterator[None]:
        """A process in a container's memory group that takes more than the limit; the kernel ends the container for it."""
        pids = self.processes_in_pod(node, pod_uid)
        first = first_process(pids)
        for pid in pids:
            # Version 1 of control groups ends one process and not the group: let it be the one that takes the others along.
            with suppress(OSError):
                Path(f"/proc/{pid}/oom_score_adj").write_text("1000" if pid == first else "0")
        with subprocess.Popen([*cgroups.entering_memory_of(first), sys.executable, "-c", HOG], stderr=subprocess.DEVNULL) as hog:
            try:
                yield
            finally:
                hog.kill()

    def _api_server_answers(self) -> bool:
        command = (kubectl(self.home), "--kubeconfig", self.kubeconfig, "--request-timeout=3s", "get", "--raw", "/readyz")
        return succeeds(*command)

    def _start(self) -> None:
        control_plane = create_control_plane(self.home, self.processes)
        control_plane.start()
        # Making the nodes needs no API server, so that both start at the same time.
        for node in self.nodes.values():
            node.create(ImageStore(self.home).folder, PLACES)
        with phase("API server"):
            control_plane.wait_ready()
        control_plane.start_controllers()
        for node in self.nodes.values():
            node.start_kubelet(control_plane)
        control_plane.wait_name_server()
        wait_until("three nodes Ready", lambda: count_ready_nodes(self.home) == NUM_NODES, deadline_seconds=90, every_seconds=0.3)
        self._wait_default_account()

    def _wait_default_account(self) -> None:
        command = (kubectl(self.home), "--kubeconfig", self.kubeconfig, "get", "serviceaccount", "default")
        wait_until("the default service account", lambda: succeeds(*command), deadline_seconds=60, every_seconds=0.3)


def shown(nodes: Sequence[Node]) -> str:
    """One line for each node and the daemons of it that run."""
    daemons = ("namespaces", "containerd", "kubelet", "proxy")
    lines = []
    for node in nodes:
        running = [daemon for daemon in daemons if node.processes.pid(f"{node.name}-{daemon}")]
        lines.append(f"{node.name} {node.place.address}: {', '.join(running) or 'off'}")
    return "\n".join(lines)
