"""`python -m finetune_agent`: one member, from its environment to its exit code."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from random import Random

from pydantic import ValidationError

from finetune_agent.logs import configure_logs
from finetune_agent.member.agent import Agent
from finetune_agent.member.last_words import write_last_words
from finetune_agent.processes.proc_tree import adopt_orphans
from finetune_agent.settings import SettingMissing, Settings, read_settings
from finetune_contract.config import JobConfig
from finetune_contract.failures import ExitCode, FailureClass, FailureReport


async def live(config: JobConfig, settings: Settings, environment: Mapping[str, str]) -> int:
    agent = Agent(config=config, settings=settings, environment=environment, random=Random())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, agent.leave)
    return await agent.run()


def main() -> int:
    try:
        settings = read_settings(os.environ)
    except SettingMissing as error:
        sys.stderr.write(f"{error}\n")
        return ExitCode.FAILED
    try:
        config = JobConfig.model_validate_json(settings.config_path.read_text())
    except (OSError, ValidationError) as error:
        message = f"the job's configuration at {settings.config_path} cannot be read: {error}"
        write_last_words(settings.termination_log, FailureReport(failure_class=FailureClass.INTERNAL, message=message))
        sys.stderr.write(f"{message}\n")
        return ExitCode.FAILED
    configure_logs(job=config.job.name, member=settings.member_name, part="agent")
    adopt_orphans()
    return asyncio.run(live(config, settings, os.environ))


if __name__ == "__main__":
    sys.exit(main())
