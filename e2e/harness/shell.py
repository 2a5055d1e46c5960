"""Commands and waiting, with errors that show what a command said and phases that print how long they took."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

SHOWN_CHARACTERS = 4000
Answer = TypeVar("Answer")


class CommandFailed(Exception):
    """A command ended with an error; the message holds the command and the end of what it printed."""


class NotReached(Exception):
    """Something that was waited for did not come in time."""


def run(*command: str | Path, stdin: str | None = None, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Standard output of a command. Raises CommandFailed."""
    words = [str(word) for word in command]
    answer = subprocess.run(words, input=stdin, env=env, cwd=cwd, capture_output=True, text=True, check=False)
    if answer.returncode:
        said = (answer.stdout + answer.stderr)[-SHOWN_CHARACTERS:]
        raise CommandFailed(f"{' '.join(words)[:SHOWN_CHARACTERS]}\nended with {answer.returncode}:\n{said}")
    return answer.stdout


def succeeds(*command: str | Path) -> bool:
    words = [str(word) for word in command]
    return subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0


def wait_until(what: str, check: Callable[[], Answer], *, deadline_seconds: float, every_seconds: float = 0.1) -> Answer:
    """Poll until `check` returns something true and return that. Raises NotReached with the last answer."""
    end = time.monotonic() + deadline_seconds
    while True:
        answer = check()
        if answer:
            return answer
        if time.monotonic() > end:
            raise NotReached(f"{what} did not come within {deadline_seconds:.0f} s; last answer: {answer!r}")
        time.sleep(every_seconds)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Print the name of a phase and its wall time when it ends well."""
    start = time.monotonic()
    yield
    sys.stderr.write(f"e2e: {name}: {time.monotonic() - start:.1f} s\n")
    sys.stderr.flush()
