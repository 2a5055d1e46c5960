"""`python -m finetune_operator`: one replica of the operator, configured by the environment."""

import asyncio
import logging
import os
import sys

from finetune_operator.edge.app import run_operator
from finetune_operator.kube.credentials import CredentialsError
from finetune_operator.logs import start_logging
from finetune_operator.settings import SettingsError, read_settings

log = logging.getLogger("finetune_operator")


def main() -> int:
    """0 after SIGTERM, 2 for settings or credentials that cannot be used, 1 for what nobody expected."""
    try:
        settings = read_settings(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    start_logging(settings.log_level)
    try:
        asyncio.run(run_operator(settings))
    except CredentialsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except Exception:  # the process' border: the traceback must reach the log
        log.exception("the operator ended")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
