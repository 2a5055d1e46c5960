"""One node: a network namespace and a mount namespace with containerd, kubelet and kube-proxy in them.

The node's namespaces are held by a process that sleeps, not by names below /run, and folders that its programs would fill on the
host (/run, /var/log, CNI's state) are covered inside: when the node's processes have ended, nothing of it is left.
"""

import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from e2e.harness import cgroups, network
from e2e.harness.containerd import Containerd
from e2e.harness.controlplane import ControlPlane, proxy_configuration
from e2e.harness.home import Home
from e2e.harness.network import HOST_ADDRESS, Place
from e2e.harness.processes import Processes
from e2e.harness.shell import run, wait_until

CNI_STATE = Path("/var/lib/cni")
COVERED = (Path("/var/log"), CNI_STATE)


@dataclass(frozen=True, kw_only=True)
class Node:
    home: Home
    processes: Processes
    place: Place

    @property
    def name(self) -> str:
        return f"node{self.place.number}"

    @property
    def folder(self) -> Path:
        return self.home.run / self.name

    @property
    def containerd(self) -> Containerd:
        root = self.folder / "containerd"
        name, group = f"{self.name}-containerd", f"{self.name}/system"
        return Containerd(processes=self.processes, name=name, group=group, root=root, folder=self.folder)

    def create(self, image_store: Path, peers: tuple[Place, ...]) -> None:
        """Namespaces, links, control groups and a copy of the image store; then containerd."""
        self.folder.mkdir()
        copy_image_store(image_store, self.containerd.root)
        cgroups.create(f"{self.name}/system")
        (self.folder / "cni").mkdir()
        for folder in COVERED:
            self._cover(folder).mkdir(parents=True)
            folder.mkdir(parents=True, exist_ok=True)
        self._write_pod_network()
        self._boot(peers)

    def _boot(self, peers: tuple[Place, ...]) -> None:
        sleep = ["unshare", "--mount", "--net", "--propagation", "private", "sleep", "infinity"]
        holder = self.processes.start(self._holder, sleep, group=f"{self.name}/system")
        wait_until(f"the namespaces of {self.name}", lambda: _has_namespaces_of_its_own(holder), deadline_seconds=10, every_seconds=0.02)
        self._cover_host_folders()
        network.connect(self.place, holder_pid=holder, peers=peers)
        self.containerd.launch(self.entering())

    def start_kubelet(self, control_plane: ControlPlane) -> None:
        """Kubelet and kube-proxy; the node registers itself."""
        kubeconfig = control_plane.kubeconfig(self.name, user=f"system:node:{self.name}", group="system:nodes")
        hosts = (self.name, self.place.address, "127.0.0.1")
        certificate, key = control_plane.authority.issue(f"{self.name}-serving", user=self.name, hosts=hosts)
        configuration = self._kubelet_configuration(control_plane.authority.certificate_file, certificate, key)
        (self.folder / "kubelet.json").write_text(json.dumps(configuration, indent=1))
        (self.folder / "resolv.conf").write_text(f"nameserver {HOST_ADDRESS}\n")
        # Containerd must answer before the kubelet asks it for the first time.
        self.containerd.wait_ready()
        self.resume_kubelet(kubeconfig)
        proxy = control_plane.kubeconfig(f"{self.name}-proxy", user="system:kube-proxy")
        (self.folder / "proxy.json").write_text(json.dumps(proxy_configuration(proxy, self.name), indent=1))
        self._start_proxy()

    def _start_proxy(self) -> None:
        command: list[str | Path] = [*self.entering(), self._binary, "proxy", "--config", self.folder / "proxy.json"]
        self.processes.start(f"{self.name}-proxy", command, group=f"{self.name}/system")

    def stop_kubelet(self) -> None:
        """The node's pods run on, but nobody reports them."""
        self.processes.stop(f"{self.name}-kubelet")

    def resume_kubelet(self, kubeconfig: Path | None = None) -> None:
        """Start the kubelet, again with the configuration that it had."""
        flags = [
            f"--config={self.folder / 'kubelet.json'}",
            f"--kubeconfig={kubeconfig or self.home.run / f'{self.name}.kubeconfig'}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.place.address}",
            f"--root-dir={self.folder / 'kubelet'}",
            f"--cert-dir={self.folder / 'kubelet-pki'}",
        ]
        self.processes.start(f"{self.name}-kubelet", [*self.entering(), self._binary, "kubelet", *flags], group=f"{self.name}/system")

    def power_off(self) -> None:
        """Every process of the node ends at once, pods included."""
        cgroups.kill(self.name)

    def power_on(self, peers: tuple[Place, ...]) -> None:
        """After `power_off`: the same disk, without what a real node keeps in memory."""
        wait_until(f"the end of the link of {self.name}", lambda: not network.is_linked(self.place), deadline_seconds=10)
        shutil.rmtree(self.containerd.state)
        self._boot(peers)
        self.containerd.wait_ready()
        self.resume_kubelet()
        self._start_proxy()

    def entering(self) -> tuple[str, ...]:
        """Prefix of a command that runs it inside the node. Not `ip netns exec`, which hides the control groups."""
        return ("nsenter", "--target", str(self.processes.require(self._holder)), "--mount", "--net", f"--wd={self.folder}")

    @property
    def _holder(self) -> str:
        return f"{self.name}-namespaces"

    @property
    def _binary(self) -> Path:
        return self.home.bin / "kubernetes"

    def _cover_host_folders(self) -> None:
        lines = ["mount -t tmpfs tmpfs /run"]
        lines += [f"mount --bind '{self._cover(folder)}' {folder}" for folder in COVERED]
        run(*self.entering(), "sh", "-euc", "\n".join(lines))

    def _cover(self, folder: Path) -> Path:
        return self.folder / "covered" / folder.relative_to("/")

    def _write_pod_network(self) -> None:
        """Pods keep their own address on the way to other nodes and to the host: all of them have the routes."""
        ranges = [[{"subnet": self.place.pod_network}]]
        addresses = {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}], "dataDir": str(self.folder / "addresses")}
        bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True, "ipam": addresses}
        (self.folder / "cni" / "pods.conflist").write_text(json.dumps({"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}))

    def _kubelet_configuration(self, authority: Path, certificate: Path, key: Path) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(authority)},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(certificate),
            "tlsPrivateKeyFile": str(key),
            "containerRuntimeEndpoint": f"unix://{self.containerd.socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{cgroups.ROOT}/{self.name}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "clusterDNS": [HOST_ADDRESS],
            "clusterDomain": "cluster.local",
            "resolvConf": str(self.folder / "resolv.conf"),
            "podLogsDir": str(self.folder / "pod-logs"),
            "volumePluginDir": str(self.folder / "volume-plugins"),
            "healthzBindAddress": "127.0.0.1",
            "makeIPTablesUtilChains": False,
            # How soon a changed Secret is seen in a pod; a minute unless told otherwise.
            "syncFrequency": "10s",
            # Image garbage collection would delete our images as soon as the machine's disk is 85 % full.
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "200Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        }


def remove_mount_points() -> None:
    """What had to be made on the host for nodes to cover it; a folder that the host uses itself is not empty and stays."""
    with suppress(OSError):
        CNI_STATE.rmdir()


def copy_image_store(store: Path, root: Path) -> None:
    """Hard links, so that nodes share disk and page cache; databases, which are written in place, are real copies."""
    run("cp", "--archive", "--link", store, root)
    for database in root.glob("*/*.db"):
        own = database.with_suffix(".db.copy")
        shutil.copy2(database, own)
        own.replace(database)


def _has_namespaces_of_its_own(pid: int) -> bool:
    return all(os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}") for kind in ("mnt", "net"))
