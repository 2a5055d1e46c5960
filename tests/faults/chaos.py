"""A random fault every 15 to 60 s, job after job; every adapter has the same bytes. `python -m tests.faults.chaos --minutes 20 --seed S`"""

import asyncio
import time

from tests.faults.random_faults import KINDS, Campaign, finish, parse, run_campaign

# As on a cluster: half worker kills, a quarter graceful ends, the rest all else.
WEIGHTS = dict.fromkeys(KINDS, 1) | {"worker killed": 12, "SIGTERM to a member": 6}


def main() -> int:
    arguments = parse(__doc__, "--minutes", 20.0)
    campaign = Campaign(name="chaos", seed=arguments.seed, kinds=WEIGHTS, seconds_between=(15, 60), num_steps=1200)
    started = time.monotonic()

    def minutes() -> float:
        return (time.monotonic() - started) / 60

    tally = asyncio.run(run_campaign(campaign, first_job=arguments.first_job, is_enough=lambda _tally: minutes() >= arguments.minutes))
    return finish(campaign, tally, minutes())


if __name__ == "__main__":
    raise SystemExit(main())
