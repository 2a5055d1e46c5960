"""Stores for tests: an S3 server in this process, and servers that always answer one error."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random

from finetune_agent.stores.credentials import CredentialFiles
from finetune_agent.stores.s3_store import S3Store
from finetune_contract.config import StorageConfig


@contextmanager
def serving(answers: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def an_error(status: int, code: str) -> type[BaseHTTPRequestHandler]:
    """Answers every request as S3 does when it refuses."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()

    class Refuse(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_DELETE = do_POST = _answer

        def log_message(self, *_: object) -> None: ...

    return Refuse


def write_credentials(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "AWS_ACCESS_KEY_ID").write_text("test\n")
    (folder / "AWS_SECRET_ACCESS_KEY").write_text("secret\n")
    return folder


def an_s3_store(endpoint: str, credentials: Path | None, *, bucket: str, prefix: str = "", patience_seconds: float = 5) -> S3Store:
    storage = StorageConfig(endpoint=endpoint, region="us-east-1")
    return S3Store(
        bucket=bucket,
        prefix=prefix,
        storage=storage,
        credentials=CredentialFiles(credentials),
        random=Random(0),
        patience_seconds=patience_seconds,
    )
