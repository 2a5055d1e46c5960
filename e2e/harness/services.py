"""Servers beside the cluster: an S3 store that pods reach, and a Prometheus that scrapes pods."""

import json
import secrets
import socket
import sys
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

from e2e.harness import pod_targets
from e2e.harness.home import Home
from e2e.harness.processes import Processes
from e2e.harness.shell import wait_until
from e2e.harness.toolchain import kubectl

S3_PORT = 7070
TARGETS_PORT = 19091
PROMETHEUS_URL = "http://127.0.0.1:19090"


@dataclass(frozen=True, kw_only=True)
class S3Settings:
    """How to reach the store, the same from pods and from this machine."""

    endpoint: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"


@dataclass(frozen=True, kw_only=True)
class Services:
    home: Home
    processes: Processes
    host_address: str

    def start_s3(self) -> S3Settings:
        """versitygw over a folder of the run, with new credentials."""
        endpoint = f"http://{self.host_address}:{S3_PORT}"
        settings = S3Settings(endpoint=endpoint, access_key=secrets.token_hex(8), secret_key=secrets.token_hex(16))
        data = self.home.run / "s3"
        data.mkdir(exist_ok=True)
        command: list[str | Path] = [self.home.bin / "versitygw", "--port", f"{self.host_address}:{S3_PORT}", "--quiet", "posix", data]
        # By the environment: arguments are there for everybody to read.
        keys = {"ROOT_ACCESS_KEY": settings.access_key, "ROOT_SECRET_KEY": settings.secret_key}
        self.processes.start("s3", command, env=keys)
        self._s3_file.touch(mode=0o600)
        self._s3_file.write_text(json.dumps(asdict(settings)))
        self._wait_port("s3", self.host_address, S3_PORT)
        return settings

    def s3(self) -> S3Settings:
        """Settings of the store that runs."""
        return S3Settings(**json.loads(self._s3_file.read_text()))

    def are_up(self) -> bool:
        return all(self.processes.pid(name) is not None for name in ("s3", "pod-targets", "prometheus"))

    def start_prometheus(self) -> str:
        """Prometheus with an own, empty database. Returns its URL, which only this machine reaches."""
        folder = self.home.run / "prometheus"
        folder.mkdir(exist_ok=True)
        configuration = folder / "prometheus.yaml"
        configuration.write_text(json.dumps(scrape_configuration(), indent=1))
        targets: list[str | Path] = [sys.executable, pod_targets.__file__, kubectl(self.home), self.home.kubeconfig, str(TARGETS_PORT)]
        self.processes.start("pod-targets", targets)
        flags = [f"--config.file={configuration}", f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={PROMETHEUS_URL[7:]}"]
        self.processes.start("prometheus", ["prometheus", *flags])
        wait_until("Prometheus", self._prometheus_is_ready, deadline_seconds=30)
        return PROMETHEUS_URL

    def _prometheus_is_ready(self) -> bool:
        self.processes.require("prometheus")
        try:
            with urllib.request.urlopen(f"{PROMETHEUS_URL}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _wait_port(self, name: str, address: str, port: int) -> None:
        def is_open() -> bool:
            self.processes.require(name)
            with socket.socket() as probe:
                return probe.connect_ex((address, port)) == 0

        wait_until(name, is_open, deadline_seconds=15)

    @property
    def _s3_file(self) -> Path:
        return self.home.run / "s3.json"


def scrape_configuration() -> dict[str, object]:
    """Every pod that names a metrics port; labels of the series themselves win, because they name the job and not the pod."""
    discovery = {"url": f"http://127.0.0.1:{TARGETS_PORT}", "refresh_interval": "2s"}
    scrape = {"job_name": "pods", "honor_labels": True, "http_sd_configs": [discovery]}
    return {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [scrape]}
