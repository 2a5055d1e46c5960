"""`torchrun -m finetune_trainer`: one formation without agent and operator. FINETUNE_RUN_ORDER names a JSON file with a RunOrder."""

import os
import sys
from pathlib import Path

from pydantic import ValidationError

from finetune_contract.run_order import RunOrder
from finetune_trainer.worker import run_rank

ORDER_VARIABLE = "FINETUNE_RUN_ORDER"


def main() -> int:
    file = os.environ.get(ORDER_VARIABLE)
    if file is None:
        sys.stderr.write(f"set {ORDER_VARIABLE} to a JSON file with a run order\n")
        return 2
    try:
        order = RunOrder.model_validate_json(Path(file).read_text())
    except (OSError, ValidationError) as error:
        sys.stderr.write(f"{ORDER_VARIABLE}={file}: {error}\n")
        return 2
    run_rank(order)
    return 0


if __name__ == "__main__":
    sys.exit(main())
