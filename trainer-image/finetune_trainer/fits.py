"""Whether data and model fit each other, asked before the first step: on a device a token without a row in the embedding is a crash."""

from collections.abc import Callable

import numpy as np

from finetune_contract.failures import FailureClass, TrainingError
from finetune_contract.plurals import counted
from finetune_contract.run_order import RunOrder, WorkerWarning
from finetune_trainer.data import Data
from finetune_trainer.model import BuiltModel
from finetune_trainer.report import Reporter
from finetune_trainer.row_warnings import row_warnings
from finetune_trainer.tokens import Tokens

_TOKENS_AT_ONCE = 1 << 24


def check_fit(data: Data, model: BuiltModel, order: RunOrder, reporter: Reporter) -> None:
    """Raises TrainingError for tokens that the model has not; warns of what is odd in the rows, or longer than the model knows."""
    for field, tokens in data.by_field().items():
        check_token_ids(tokens, field, model.vocab_size, order.config.model.uri, reporter.beat)
        for warning in row_warnings(tokens.tally, field, limit=order.config.training.max_sequence_length):
            reporter.warn(warning)
    warn_of_unknown_positions(model, order, reporter)


def check_token_ids(tokens: Tokens, field: str, vocab_size: int, model_uri: str, beat: Callable[[], None] = lambda: None) -> None:
    """Raises TrainingError naming the first row with a token that the embedding has no row for. Reads all tokens, beating."""
    for first in range(0, len(tokens.ids), _TOKENS_AT_ONCE):
        beat()
        unknown = np.flatnonzero(tokens.ids[first : first + _TOKENS_AT_ONCE] >= vocab_size)
        if len(unknown) > 0:
            place = first + int(unknown[0])
            row = int(np.searchsorted(tokens.starts, place, side="right")) - 1
            name = tokens.name_of(row)  # a number, or the file and the row
            embedding = f"the embedding of {model_uri} has {counted(vocab_size, 'row')}"
            what = f"{f'row {name}' if name.isdigit() else name} has the token {int(tokens.ids[place])}, but {embedding}"
            advice = "the tokenizer has tokens that the weights do not know; take the tokenizer of these weights, or resize the embedding"
            raise TrainingError(FailureClass.USER_ERROR, f"{field}: {what}: {advice}")


def warn_of_unknown_positions(model: BuiltModel, order: RunOrder, reporter: Reporter) -> None:
    """maxSequenceLength may be more than the model has learnt to place; rows that long are trained as they are."""
    limit = order.config.training.max_sequence_length
    if limit > model.longest:
        longest = f"rows of at most {counted(model.longest, 'token')}"
        what = f"spec.training.maxSequenceLength is {limit}, but {order.config.model.uri} was made for {longest}"
        message = f"{what} (max_position_embeddings in its config.json); longer rows may train badly: lower maxSequenceLength"
        reporter.warn(WorkerWarning(reason="LongerThanTheModel", message=message))
