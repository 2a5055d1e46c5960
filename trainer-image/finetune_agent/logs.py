"""Structured logs: one JSON object a line with job, member and, where they matter, formation and step. Never secrets."""

import json
import logging
import sys
import time
from typing import TextIO

_FIELDS = ("formation", "step", "rank", "order", "phase")


class JsonLines(logging.Formatter):
    """Renders a record as one line; fields given by `extra` stand beside the message."""

    def __init__(self, *, job: str, member: str, part: str) -> None:
        super().__init__()
        self._who = {"job": job, "member": member, "part": part}

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {"time": f"{stamp}.{int(record.msecs):03d}Z", "level": record.levelname.lower(), **self._who}
        line |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        line["message"] = record.getMessage()
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure_logs(*, job: str, member: str, part: str, stream: TextIO = sys.stdout) -> None:
    """Call once, at the top of a process. Parts whose stdout carries messages log to stderr."""
    lines = logging.StreamHandler(stream)
    lines.setFormatter(JsonLines(job=job, member=member, part=part))
    logging.basicConfig(level=logging.INFO, handlers=[lines], force=True)
    for noisy in ("botocore", "boto3", "urllib3", "httpx", "huggingface_hub", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
