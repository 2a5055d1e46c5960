"""Tokenised rows of a job, made once for each member and cached by what they depend on; the split into training and evaluation."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tokenizers
import transformers
from transformers import PreTrainedTokenizerBase

from finetune_contract.failures import FailureClass, TrainingError
from finetune_contract.plurals import counted
from finetune_contract.run_order import RunOrder
from finetune_trainer.ranks import Ranks, meet
from finetune_trainer.report import Reporter
from finetune_trainer.row_warnings import EVAL_FIELD, TRAIN_FIELD
from finetune_trainer.rows import Rows, read_rows
from finetune_trainer.seeds import permutation
from finetune_trainer.template_choice import may_ask_for_date
from finetune_trainer.token_store import StoreRecord, TokenStore
from finetune_trainer.tokenise import Tokenising, encoder_of, load_tokenizer
from finetune_trainer.tokens import Tally, Tokens

_CACHE_FORMAT = 4


@dataclass(frozen=True, kw_only=True)
class Data:
    """`train_rows` and `eval_rows` are indices into the tokens beside them."""

    train: Tokens
    train_rows: npt.NDArray[np.int64]
    eval: Tokens
    eval_rows: npt.NDArray[np.int64]

    def by_field(self) -> dict[str, Tokens]:
        """Tokens of each place that rows come from, by the field that names it."""
        return {TRAIN_FIELD: self.train} | ({} if self.eval is self.train else {EVAL_FIELD: self.eval})


def load_data(order: RunOrder, ranks: Ranks, reporter: Reporter) -> Data:
    """Collective. The first rank of each member tokenises, the others map what it wrote. Raises TrainingError naming the rows."""
    reporter.enter("preparing")
    if ranks.is_local_leader:
        _make_tokens(order, order.dataset_files, TRAIN_FIELD, reporter)
        if order.eval_files:
            _make_tokens(order, order.eval_files, EVAL_FIELD, reporter)
    meet(reporter.beat)
    train = _open_tokens(order, TRAIN_FIELD)
    if order.eval_files:
        held_out = _open_tokens(order, EVAL_FIELD)
        return Data(train=train, train_rows=_all(train), eval=held_out, eval_rows=_all(held_out))
    held_rows, kept_rows = split(len(train), order.config.dataset.eval_fraction, order.config.training.seed)
    return Data(train=train, train_rows=kept_rows, eval=train, eval_rows=held_rows)


def split(num_rows: int, fraction: float, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(held-out rows, training rows), each in file order; at least one held-out row unless the fraction is 0."""
    num_held = max(1, round(num_rows * fraction)) if fraction > 0 else 0
    if num_held >= num_rows:
        message = (
            f"spec.dataset.evalFraction: {fraction} of {counted(num_rows, 'usable row')} leaves none to train on; "
            "give more rows, or set evalUri to separate held-out rows"
        )
        raise TrainingError(FailureClass.USER_ERROR, message)
    shuffled = permutation(num_rows, seed, "held-out")
    return np.sort(shuffled[:num_held]), np.sort(shuffled[num_held:])


def _all(tokens: Tokens) -> npt.NDArray[np.int64]:
    return np.arange(len(tokens), dtype=np.int64)


def _make_tokens(order: RunOrder, files: tuple[str, ...], field: str, reporter: Reporter) -> None:
    """Until all rows are in the cache; goes on where another process of this member stopped."""
    store = _store(order, field)
    with store.locked(reporter.beat):
        record = store.begin()
        if record is not None and record.is_complete:
            return
        rows = _rows(order, files, field)
        training, day = order.config.training, order.config.job.created
        encoder = encoder_of(rows, _tokenizer(order), train_on=training.train_on, template=training.chat_template, day=day)

        def beat(num_rows: int) -> None:
            reporter.beat()
            reporter.prepared(num_rows, round(num_rows / rows.share) if rows.share > 0 else None)

        limit, done = training.max_sequence_length, Tally() if record is None else record.tally
        tokenising = Tokenising(rows, encoder, limit=limit, done=done, beat=beat)
        names = tuple(path.name for path in rows.files)
        for part in tokenising.parts():
            store.append(part, StoreRecord(is_complete=False, tally=tokenising.tally, files=names))
        tokenising.check()
        store.complete(StoreRecord(is_complete=True, tally=tokenising.tally, files=names))


def _open_tokens(order: RunOrder, field: str) -> Tokens:
    store = _store(order, field)
    record = store.read_record()
    if record is None or not record.is_complete:
        raise TrainingError(FailureClass.INFRASTRUCTURE, f"{field}: the token cache of this member was removed while it was used")
    return store.open(record)


def _rows(order: RunOrder, files: tuple[str, ...], field: str) -> Rows:
    dataset = order.config.dataset
    return read_rows([Path(file) for file in files], field=field, form=dataset.format, columns=dataset.columns)


def _tokenizer(order: RunOrder) -> PreTrainedTokenizerBase:
    return load_tokenizer(Path(order.model_dir), model_uri=order.config.model.uri)


def _store(order: RunOrder, field: str) -> TokenStore:
    dataset, training = order.config.dataset, order.config.training
    parts = (
        _CACHE_FORMAT,
        field,
        order.dataset_digest,
        order.model_digest,
        dataset.format,
        dataset.columns,
        training.train_on,
        training.max_sequence_length,
        training.chat_template,
        order.config.job.created if may_ask_for_date(Path(order.model_dir), training.chat_template) else None,
        transformers.__version__,
        tokenizers.__version__,
    )
    return TokenStore(Path(order.cache_dir) / f"tokens-{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}")
