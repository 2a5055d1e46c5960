"""For `finetune rows`: the tokenizer and the rows of a job onto this machine, no weights. Prints where they lie, as one JSON line.

python -m finetune_agent.preparing.rows_inputs CONFIG FOLDER
"""

import sys
from pathlib import Path
from random import Random

from finetune_agent.preparing.fetch import Fetch
from finetune_agent.preparing.patience import until_it_answers
from finetune_agent.stores.credentials import CredentialFiles
from finetune_contract.config import JobConfig
from finetune_contract.failures import TrainingError
from finetune_contract.run_order import RowsInputs


def fetch_for_rows(config: JobConfig, folder: Path, random: Random) -> RowsInputs:
    """Credentials come from the environment. Raises TrainingError."""
    fetch = Fetch(storage=config.storage, credentials=CredentialFiles(None), cache=folder, random=random)
    dataset, eval_uri = config.dataset, config.dataset.eval_uri
    tokenizer = until_it_answers("spec.model.uri", lambda: fetch.tokenizer(config.model), warn=_warn, random=random)
    rows = until_it_answers("spec.dataset.uri", lambda: fetch.dataset(dataset.uri, "train"), warn=_warn, random=random)
    held_out: tuple[Path, ...] = ()
    if eval_uri is not None:
        held_out = until_it_answers("spec.dataset.evalUri", lambda: fetch.dataset(eval_uri, "eval"), warn=_warn, random=random).files
    return RowsInputs(tokenizer_dir=str(tokenizer), dataset_files=tuple(map(str, rows.files)), eval_files=tuple(map(str, held_out)))


def _warn(message: str) -> None:
    sys.stderr.write(f"{message}\n")


def main(arguments: list[str]) -> int:
    """1: the reason stands on stderr, in the user's words."""
    config, folder = JobConfig.model_validate_json(Path(arguments[0]).read_text()), Path(arguments[1])
    try:
        sys.stdout.write(fetch_for_rows(config, folder, Random()).model_dump_json() + "\n")
    except TrainingError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{error.filename or folder}: {error.strerror}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
