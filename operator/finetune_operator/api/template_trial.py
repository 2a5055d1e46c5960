"""Renders a chat template with two turns in a process of its own, which has little CPU time and memory.

`python -m finetune_operator.api.template_trial` is that process: the template on stdin, one line about what is wrong on stdout.
"""

import math
import resource
import signal
import subprocess
import sys
from typing import Any

from finetune_operator.api.templates import open_sandbox

CPU_SECONDS, MAX_MEMORY_BYTES, MAX_CHARS = 2, 1024**3, 1_000_000
WALL_SECONDS = 60.0  # of a busy machine
_OUT_OF_MEMORY = 3
_OUT_OF_BOUNDS = {_OUT_OF_MEMORY, -signal.SIGXCPU, -signal.SIGKILL}
_TURNS = [("user", "Which port?"), ("assistant", "Port 9443."), ("user", "And before?"), ("assistant", "Port 8080.")]


def try_template(text: str, *, wall_seconds: float = WALL_SECONDS) -> str | None:
    """What is wrong with it, or None; None too when this machine is too busy to tell."""
    command = [sys.executable, "-P", "-m", "finetune_operator.api.template_trial"]
    try:
        tried = subprocess.run(command, input=text.encode(errors="replace"), capture_output=True, timeout=wall_seconds, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    said = tried.stdout.decode(errors="replace").strip()
    if tried.returncode not in _OUT_OF_BOUNDS:
        return said or None
    return f"takes more than {CPU_SECONDS} s or {MAX_MEMORY_BYTES // 1024**2} MiB for four short messages"


def render_two_turns(text: str) -> str | None:
    """What is wrong with it, or None. Not bounded in time and memory: the caller is."""
    messages = [{"role": role, "content": content} for role, content in _TURNS]
    sandbox = open_sandbox()
    sandbox.globals |= {"raise_exception": _refuse, "strftime_now": lambda _format: "1 Jan 2026"}
    sandbox.filters["tojson"] = lambda value, **_: str(value)
    values = {"messages": messages, "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": False}
    try:
        shown = sandbox.from_string(text).render(tools=None, documents=None, **values)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever a template raises is the template's
        return f"refuses a conversation of two turns: {type(error).__name__}: {error}"[:300]
    if len(shown) > MAX_CHARS:
        return f"makes {len(shown)} characters of four short messages"
    missing = [content for _, content in _TURNS if content not in shown]
    return f"does not show the message {missing[0]!r} of a conversation of two turns" if missing else None


def _refuse(message: Any) -> None:
    raise ValueError(str(message))


def main() -> int:
    """Bounded from here on."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = CPU_SECONDS + math.ceil(used.ru_utime + used.ru_stime)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        sys.stdout.write(render_two_turns(sys.stdin.read()) or "")
    except MemoryError:
        return _OUT_OF_MEMORY
    return 0


if __name__ == "__main__":
    sys.exit(main())
