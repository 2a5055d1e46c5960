"""What Prometheus is to scrape, as its HTTP service discovery wants it: every pod that names a port `metrics`.

Debian's Prometheus is built without Kubernetes discovery. Run as `python pod_targets.py KUBECTL KUBECONFIG PORT`.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

PORT_NAME = "metrics"


def render_targets(pods: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """https://prometheus.io/docs/prometheus/latest/http_sd/: address and labels of each running pod."""
    for pod in pods:
        address = pod["status"].get("podIP")
        if pod["status"].get("phase") != "Running" or not address:
            continue
        ports = (port for container in pod["spec"]["containers"] for port in container.get("ports", []))
        for port in ports:
            if port.get("name") == PORT_NAME:
                yield {"targets": [f"{address}:{port['containerPort']}"], "labels": {"pod": pod["metadata"]["name"]}}


class Handler(BaseHTTPRequestHandler):
    """Asks the API server at every request; its absence is a 503, upon which Prometheus keeps what it has."""

    read_pods: tuple[str, ...] = ()

    def do_GET(self) -> None:
        answer = subprocess.run(self.read_pods, capture_output=True, text=True, check=False)
        if answer.returncode:
            self.send_error(503, "the API server does not answer")
            return
        body = json.dumps(list(render_targets(json.loads(answer.stdout)["items"]))).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: one line a second would hide what matters."""


def main(arguments: list[str]) -> int:
    kubectl, kubeconfig, port = arguments
    Handler.read_pods = (kubectl, "--kubeconfig", kubeconfig, "--request-timeout=5s", "get", "--raw", "/api/v1/pods")
    HTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
