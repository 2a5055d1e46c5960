"""Kills at random moments of many short jobs; every adapter has the same bytes. `python -m tests.faults.kills --num 200 --seed S`"""

import asyncio
import time

from tests.faults.random_faults import Campaign, finish, parse, run_campaign

WEIGHTS = {"worker killed": 8, "all workers killed": 3, "worker stopped": 3, "agent killed": 3, "SIGTERM to a member": 3}


def main() -> int:
    arguments = parse(__doc__, "--num", 200)
    campaign = Campaign(name="kills", seed=arguments.seed, kinds=WEIGHTS, seconds_between=(0.1, 2.5), num_steps=60, most_faults=12)
    started = time.monotonic()
    tally = asyncio.run(run_campaign(campaign, first_job=arguments.first_job, is_enough=lambda tally: tally.num_faults >= arguments.num))
    return finish(campaign, tally, (time.monotonic() - started) / 60)


if __name__ == "__main__":
    raise SystemExit(main())
