"""What runs of random faults did and found, for the table of docs/faults.md: those of this machine and that of the cluster."""

import json
import statistics
import sys
from collections import Counter
from dataclasses import dataclass, field

from tests.faults.ledger import ROOT

KEPT = ROOT / "docs" / "random-faults.json"


@dataclass
class Tally:
    """What was done and found so far."""

    kinds: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    most_lost: int = 0
    goodput: list[float] = field(default_factory=list)
    bad_jobs: list[int] = field(default_factory=list)
    num_jobs: int = 0

    @property
    def num_faults(self) -> int:
        return sum(self.kinds.values())


def keep_run(name: str, seed: int, tally: Tally, *, minutes: float) -> None:
    """The run's line for the table of docs/faults.md, in place of the one of its name."""
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    tally.seconds.sort()
    kept[name] = {
        "seed": seed,
        "minutes": round(minutes, 1),
        "jobs": tally.num_jobs,
        "faults": dict(sorted(tally.kinds.items())),
        "p50": round(statistics.median(tally.seconds), 2) if tally.seconds else None,
        "p95": round(tally.seconds[int(0.95 * (len(tally.seconds) - 1))], 2) if tally.seconds else None,
        "most_lost_steps": tally.most_lost,
        "goodput": round(statistics.mean(tally.goodput), 3) if tally.goodput else None,
        "jobs_with_other_bytes_or_samples": len(tally.bad_jobs),
    }
    KEPT.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    sys.stdout.write(json.dumps(kept[name], indent=1) + "\n")
