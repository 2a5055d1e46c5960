"""The servers that a cluster has once: etcd, API server, controller manager, scheduler and the name server, as processes of the host.

All listen on the bridge's address or on loopback. Data are thrown away, so etcd never waits for the disk.
"""

import socket
from dataclasses import dataclass
from pathlib import Path

from e2e.harness.home import Home
from e2e.harness.network import API_SERVICE_ADDRESS, HOST_ADDRESS, POD_NETWORK, SERVICE_NETWORK
from e2e.harness.pki import Authority, create_authority, write_token_keys
from e2e.harness.processes import Processes
from e2e.harness.shell import run, succeeds, wait_until
from e2e.harness.toolchain import kubectl

API_URL = f"https://{HOST_ADDRESS}:6443"
# Not the usual ports: the machine may run an etcd of its own.
ETCD_URL, ETCD_PEER_URL = "http://127.0.0.1:23790", "http://127.0.0.1:23800"
ADMINISTRATORS = "system:masters"
API_SERVER_NAMES = (HOST_ADDRESS, API_SERVICE_ADDRESS, "kubernetes", "kubernetes.default", "kubernetes.default.svc")
COREFILE = f"""\
.:53 {{
    bind {HOST_ADDRESS}
    errors
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig KUBECONFIG
        pods insecure
    }}
    cache 5
}}
"""


@dataclass(frozen=True, kw_only=True)
class ControlPlane:
    home: Home
    processes: Processes
    authority: Authority

    def kubeconfig(self, name: str, *, user: str, group: str | None = None) -> Path:
        """A new kubeconfig in the run's folder for that user."""
        file = self.home.run / f"{name}.kubeconfig"
        self.authority.write_kubeconfig(file, server=API_URL, user=user, group=group)
        return file

    def start(self) -> None:
        """Start etcd and the API server; the others follow in `start_controllers` when the API server answers."""
        self.kubeconfig("admin", user="admin", group=ADMINISTRATORS)
        etcd: list[str | Path] = [self._binary, "etcd", "--data-dir", self.home.run / "etcd", "--unsafe-no-fsync", "--log-level=warn"]
        urls = [f"--listen-client-urls={ETCD_URL}", f"--advertise-client-urls={ETCD_URL}", f"--listen-peer-urls={ETCD_PEER_URL}"]
        self.processes.start("etcd", [*etcd, *urls])
        self.processes.start("apiserver", self._apiserver_command())

    def wait_ready(self) -> None:
        def is_ready() -> bool:
            self.processes.require("etcd")
            self.processes.require("apiserver")
            return succeeds(kubectl(self.home), "--kubeconfig", self.home.kubeconfig, "get", "--raw", "/readyz")

        wait_until("the API server", is_ready, deadline_seconds=60, every_seconds=0.2)

    def start_controllers(self) -> None:
        controllers = self.kubeconfig("controller-manager", user="system:kube-controller-manager")
        scheduler = self.kubeconfig("scheduler", user="system:kube-scheduler")
        authority = [
            f"--cluster-signing-cert-file={self.authority.certificate_file}",
            f"--cluster-signing-key-file={self.authority.key_file}",
        ]
        flags = [
            f"--kubeconfig={controllers}",
            f"--service-account-private-key-file={self.home.pki / 'tokens.key'}",
            f"--root-ca-file={self.authority.certificate_file}",
            "--use-service-account-credentials",
            "--leader-elect=false",
            "--secure-port=0",
        ]
        self.processes.start("controller-manager", [self._binary, "controller-manager", *flags, *authority])
        self.processes.start(
            "scheduler", [self._binary, "scheduler", f"--kubeconfig={scheduler}", "--leader-elect=false", "--secure-port=0"]
        )
        self._start_name_server()

    def wait_name_server(self) -> None:
        def answers() -> bool:
            self.processes.require("coredns")
            with socket.socket() as probe:
                return probe.connect_ex((HOST_ADDRESS, 53)) == 0

        wait_until("the name server", answers, deadline_seconds=30)

    def _start_name_server(self) -> None:
        corefile = self.home.run / "Corefile"
        corefile.write_text(COREFILE.replace("KUBECONFIG", str(self.home.kubeconfig)))
        self.processes.start("coredns", [self.home.bin / "coredns", "-conf", corefile])

    def _apiserver_command(self) -> list[str | Path]:
        certificate, key = self.authority.issue("apiserver", user="kube-apiserver", hosts=API_SERVER_NAMES)
        kubelet_certificate, kubelet_key = self.authority.issue("apiserver-kubelet", user="apiserver", group=ADMINISTRATORS)
        token_key, token_public = write_token_keys(self.home.pki)
        return [
            self._binary,
            "apiserver",
            f"--etcd-servers={ETCD_URL}",
            f"--bind-address={HOST_ADDRESS}",
            f"--advertise-address={HOST_ADDRESS}",
            "--secure-port=6443",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            f"--client-ca-file={self.authority.certificate_file}",
            f"--service-account-key-file={token_public}",
            f"--service-account-signing-key-file={token_key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            f"--service-cluster-ip-range={SERVICE_NETWORK}",
            # Webhooks are called at their pods' addresses: the host, where this runs, has no kube-proxy for those of Services.
            "--enable-aggregator-routing",
            f"--kubelet-certificate-authority={self.authority.certificate_file}",
            f"--kubelet-client-certificate={kubelet_certificate}",
            f"--kubelet-client-key={kubelet_key}",
            "--kubelet-preferred-address-types=InternalIP",
        ]

    @property
    def _binary(self) -> Path:
        return self.home.bin / "kubernetes"


def create_control_plane(home: Home, processes: Processes) -> ControlPlane:
    return ControlPlane(home=home, processes=processes, authority=create_authority(home.pki))


def proxy_configuration(kubeconfig: Path, node: str) -> dict[str, object]:
    """kube-proxy's: nftables, because kernels without IPVS exist and iptables mode is slow."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "mode": "nftables",
        "clusterCIDR": POD_NETWORK,
        "hostnameOverride": node,
        "conntrack": {"maxPerCore": 0},
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
    }


def count_ready_nodes(home: Home) -> int:
    template = '{range .items[*]}{range .status.conditions[?(@.type=="Ready")]}{.status} {end}{end}'
    answer = run(kubectl(home), "--kubeconfig", home.kubeconfig, "get", "nodes", "-o", f"jsonpath={template}")
    return answer.split().count("True")
