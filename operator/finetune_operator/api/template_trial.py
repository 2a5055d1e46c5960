"""Reads a chat template and runs it on a short conversation, in a process of its own that has little CPU time and memory.

`python -m finetune_operator.api.template_trial` is that process: the template on stdin, one line about what is wrong on stdout.
"""

import math
import resource
import signal
import subprocess
import sys

from finetune_contract.chat_template import ChatTemplate, TemplateProblem
from finetune_operator.times import TRIAL_CPU_SECONDS, TRIAL_WALL_SECONDS

MAX_MEMORY_BYTES = 1024**3
_NAMES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
_OUT_OF_MEMORY = 3
_OUT_OF_BOUNDS = {_OUT_OF_MEMORY, -signal.SIGXCPU, -signal.SIGKILL}


def try_template(text: str, *, wall_seconds: float = TRIAL_WALL_SECONDS) -> str | None:
    """What is wrong with it, or None; None too when this machine is too busy to tell."""
    command = [sys.executable, "-P", "-m", "finetune_operator.api.template_trial"]
    try:
        tried = subprocess.run(command, input=text.encode(errors="replace"), capture_output=True, timeout=wall_seconds, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    said = tried.stdout.decode(errors="replace").strip()
    if tried.returncode not in _OUT_OF_BOUNDS:
        return said or None
    return f"takes more than {TRIAL_CPU_SECONDS} s or {MAX_MEMORY_BYTES // 1024**2} MiB for four short messages"


def fault_of(text: str) -> str | None:
    """What is wrong with it, or None. Bounded in work, not in seconds: the caller is."""
    try:
        template = ChatTemplate(text, names=_NAMES, day=None)
        template.check_shows_rows()
        template.check_runs()
    except TemplateProblem as problem:
        return problem.words
    return None


def main() -> int:
    """Bounded from here on."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = TRIAL_CPU_SECONDS + math.ceil(used.ru_utime + used.ru_stime)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        sys.stdout.write(fault_of(sys.stdin.read()) or "")
    except MemoryError:
        return _OUT_OF_MEMORY
    return 0


if __name__ == "__main__":
    sys.exit(main())
