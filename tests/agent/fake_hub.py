"""As much of the hub's HTTP interface as huggingface_hub needs for one repository of each kind."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlparse

from tests.agent.object_stores import serving

COMMIT = "c" * 40
MODEL = {"config.json": b"{}", "model.safetensors": b"weights" * 1000, "tokenizer.json": b"{}", "pytorch_model.bin": b"pickle"}
ROWS = {"train.jsonl": b'{"text": "one"}\n', "README.md": b"# rows"}


class _Hub(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        path = urlparse(self.path).path
        for prefix, name, files in (("models", "owner/tiny", MODEL), ("datasets", "owner/rows", ROWS)):
            if path.startswith(f"/api/{prefix}/{name}"):
                return self._describe(path, name, files)
            stem = f"/{name}/resolve/" if prefix == "models" else f"/datasets/{name}/resolve/"
            if path.startswith(stem):
                return self._send(200, files[path.rpartition("/")[2]], with_body=with_body)
        return self._send(404, b"{}", code="RepoNotFound")

    def _describe(self, path: str, name: str, files: dict[str, bytes]) -> None:
        if "/revision/" in path and path.rpartition("/")[2] not in {"main", COMMIT}:
            return self._send(404, b"{}", code="RevisionNotFound")
        siblings = [{"rfilename": file, "size": len(data)} for file, data in files.items()]
        body = {"id": name, "sha": COMMIT, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0, "private": False}
        return self._send(200, json.dumps(body).encode())

    def _send(self, status: int, body: bytes, *, with_body: bool = True, code: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()[:40]}"')
        if code is not None:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def a_hub() -> Iterator[str]:
    with serving(_Hub) as endpoint:
        yield endpoint
