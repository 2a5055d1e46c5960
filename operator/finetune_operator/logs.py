"""Logs as one JSON object a line on stderr, with job, namespace, member, formation and step as fields.

It filters no secrets: callers log none.
"""

import json
import logging
import sys
from datetime import UTC, datetime

FIELDS = ("namespace", "job", "member", "formation", "step")


class JsonFormatter(logging.Formatter):
    """Renders the message, the known extra fields and, if there is one, the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {field: getattr(record, field) for field in FIELDS if hasattr(record, field)}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def start_logging(level: str) -> None:
    """Send everything of `level` and above to stderr; third-party loggers below warning are left out unless debugging."""
    output = logging.StreamHandler(sys.stderr)
    output.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[output], force=True)
    if level != "debug":
        for noisy in ("aiohttp.access", "kopf", "asyncio"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        logging.getLogger("kopf.objects").setLevel(logging.CRITICAL)  # an error line for each refused review
