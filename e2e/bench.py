"""`make bench`: the figures this project promises, medians of five, printed as two tables: without a cluster, and on one."""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
Row = tuple[str, str, str]


def median_seconds(command: list[str], repeats: int = 5) -> float:
    """Wall time of a whole process; the first run only warms the caches, unless it is the only one."""
    times: list[float] = []
    for attempt in range(repeats + 1):
        start = time.monotonic()
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
        if attempt or repeats == 0:
            times.append(time.monotonic() - start)
    return statistics.median(times)


def local_rows() -> list[Row]:
    """What needs no cluster."""
    finetune = str(Path(sys.executable).parent / "finetune")
    validate = median_seconds([finetune, "validate", "examples/support/finetune.yaml"])
    probe = "import sys, finetune_operator; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", probe], check=True)
    return [
        ("finetune validate", f"{validate:.2f} s", "<= 1 s"),
        ("import finetune_operator", "without torch", "without torch"),
        ("make check (n=5)", f"{median_seconds(['make', 'check']):.1f} s", "<= 20 s"),
        ("make test (n=1)", f"{median_seconds(['make', 'test'], repeats=0):.0f} s", "<= 300 s"),
    ]


def render(rows: list[Row]) -> str:
    lines = ["| figure | measured | wanted |", "|---|---|---|", *(f"| {name} | {value} | {wanted} |" for name, value, wanted in rows)]
    return "\n".join(lines) + "\n"


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    sys.stdout.write(render(local_rows()))
    sys.stdout.flush()
    return subprocess.run([sys.executable, "-m", "pytest", "e2e/bench_cluster.py", "-s"], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
