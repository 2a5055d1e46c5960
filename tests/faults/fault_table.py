"""The tables of docs/faults.md: one row for each of the 36 faults, and the runs of random faults. What is written around them stays.

They come from docs/faults.json (ledger.py) and docs/random-faults.json (tally.py).
"""

import json
from pathlib import Path
from typing import Any

from tests.faults.ledger import KEPT, NUM_FAULTS, ROOT, Result, all_same, read_kept, worst

PAGE = "docs/faults.md"
RANDOM = "docs/random-faults.json"
BEGIN, END = "<!-- {}: begin (make generate) -->\n", "<!-- {}: end -->"
FAULTS = {
    1: "`kill -9` of one worker, of all workers",
    2: "`kill -9` of the agent, PID 1",
    3: "the member with node rank 0 lost",
    4: "a member deleted with grace",
    5: "a member killed without grace",
    6: "eviction, NoExecute taint, drain",
    7: "spot notice, then the kill",
    8: "SIGTERM to one member in any phase",
    9: "SIGTERM with no replacement possible",
    10: "a node gone without warning",
    11: "all members gone at once",
    12: "a member cut off from its peers only",
    13: "operator cut off from the API server or the agents",
    14: "a slow member",
    15: "a hang: SIGSTOP, deadlock, GIL-held loop",
    16: "a container killed for its memory",
    17: "device out of memory; sticky device error",
    18: "loss not finite",
    19: "a state object damaged or missing",
    20: "a crash during an upload",
    21: "store answers 500 and 503, or is away",
    22: "store slow, connections reset",
    23: "store refuses: 403, credentials rotated",
    24: "store ignores If-None-Match",
    25: "a stale writer comes back",
    26: "disk full",
    27: "operator killed at each point, two replicas, a stale leader",
    28: "API server restarted, 409, 429, 410, ghosts",
    29: "job deleted, suspended, edited in mid-recovery",
    30: "a model file damaged or missing in one cache",
    31: "formations of other sizes",
    32: "random faults, one after the other",
    33: "a fault during the recovery",
    34: "clocks off by an hour",
    35: "DNS slow or away",
    36: "image that cannot be pulled",
}
HEAD = "| # | fault | result | where | next step | lost steps | same bytes |\n|---|---|---|---|---|---|---|\n"


RANDOM_HEAD = (
    "| run | seed | minutes | jobs | faults | next step p50 / p95 | most lost steps | goodput | other bytes or samples |\n"
    "|---|---|---|---|---|---|---|---|---|\n"
)


def generated_files(root: Path = ROOT) -> dict[str, str]:
    """The page with its tables as the kept results say."""
    page = with_table((root / PAGE).read_text(), "results", render_table(read_kept(root / KEPT.relative_to(ROOT))))
    runs = json.loads((root / RANDOM).read_text()) if (root / RANDOM).exists() else {}
    return {PAGE: with_table(page, "random faults", RANDOM_HEAD + "".join(render_run(name, run) for name, run in sorted(runs.items())))}


def with_table(page: str, name: str, table: str) -> str:
    begin, end = BEGIN.format(name), END.format(name)
    before, rest = page.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}{table}{end}{after}"


def render_run(name: str, run: dict[str, Any]) -> str:
    faults = f"{sum(run['faults'].values())}: " + ", ".join(f"{count} {kind}" for kind, count in run["faults"].items())
    seconds = "-" if run["p50"] is None else f"{run['p50']:.1f} s / {run['p95']:.1f} s"
    bad = run["jobs_with_other_bytes_or_samples"]
    counts = f"{run['seed']} | {run['minutes']:.0f} | {run['jobs']} | {faults} | {seconds} | {run['most_lost_steps']}"
    return f"| {name} | {counts} | {run['goodput']:.0%} | {'none' if bad == 0 else f'**{bad} jobs**'} |\n"


def render_table(results: tuple[Result, ...]) -> str:
    rows = [render_row(number, [result for result in results if result.fault == number]) for number in range(1, NUM_FAULTS + 1)]
    return HEAD + "".join(rows)


def render_row(number: int, results: list[Result]) -> str:
    if not results:
        return f"| {number} | {FAULTS[number]} | not run | | | | |\n"
    num_passed = sum(result.passed for result in results)
    outcome = (
        f"{num_passed} of {len(results)} passed"
        if num_passed == len(results)
        else f"**{len(results) - num_passed} of {len(results)} FAILED**"
    )
    where = ", ".join(sorted({result.where for result in results}, reverse=True))
    seconds = worst(result.seconds for result in results if result.seconds is not None)
    lost = worst(result.lost_steps for result in results if result.lost_steps is not None)
    same = {True: "yes", False: "**NO**", None: "-"}[all_same(result.same_bytes for result in results)]
    shown = "-" if seconds is None else f"{seconds:.1f} s"
    return f"| {number} | {FAULTS[number]} | {outcome} | {where} | {shown} | {'-' if lost is None else lost} | {same} |\n"
