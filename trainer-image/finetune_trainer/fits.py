"""Whether data and model fit each other, asked before the first step: on a device a token without a row in the embedding is a crash."""

from finetune_contract.failures import FailureClass, TrainingError
from finetune_contract.run_order import RunOrder, WorkerWarning
from finetune_trainer.data import Data
from finetune_trainer.model import BuiltModel
from finetune_trainer.report import Reporter
from finetune_trainer.tokenise import Tokens


def check_fit(data: Data, model: BuiltModel, order: RunOrder, reporter: Reporter) -> None:
    """Raises TrainingError for tokens that the model has not; warns of rows that may be longer than it knows."""
    check_token_ids(data, model, order)
    warn_of_unknown_positions(model, order, reporter)


def check_token_ids(data: Data, model: BuiltModel, order: RunOrder) -> None:
    """Raises TrainingError naming the first row with a token that the embedding has no row for."""
    held_out = "spec.dataset.evalUri" if order.config.dataset.eval_uri is not None else "spec.dataset.uri"
    for tokens, field in ((data.train, "spec.dataset.uri"), (data.eval, held_out)):
        _check(tokens, field, model.vocab_size, order.config.model.uri)


def _check(tokens: Tokens, field: str, vocab_size: int, model_uri: str) -> None:
    if len(tokens.ids) == 0 or int(tokens.ids.max()) < vocab_size:
        return
    for row in range(len(tokens)):
        ids = tokens.ids[tokens.starts[row] : tokens.starts[row + 1]]
        if int(ids.max()) >= vocab_size:
            what = f"row {int(tokens.numbers[row])} has the token {int(ids.max())}, but the embedding of {model_uri} has {vocab_size} rows"
            advice = "its tokenizer has tokens that its weights do not know; take the tokenizer of these weights, or resize the embedding"
            raise TrainingError(FailureClass.USER_ERROR, f"{field}: {what}: {advice}")


def warn_of_unknown_positions(model: BuiltModel, order: RunOrder, reporter: Reporter) -> None:
    """maxSequenceLength may be more than the model has learnt to place; rows that long are trained as they are."""
    limit = order.config.training.max_sequence_length
    if limit > model.longest:
        what = f"spec.training.maxSequenceLength is {limit}, {order.config.model.uri} was made for rows of at most {model.longest} tokens"
        message = f"{what} (max_position_embeddings in its config.json); longer rows may train badly: lower maxSequenceLength"
        reporter.warn(WorkerWarning(reason="LongerThanTheModel", message=message))
