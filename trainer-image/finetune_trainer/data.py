"""Tokenised rows of a job, made once for each member and cached by what they depend on; the split into training and evaluation."""

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch.distributed as dist
from pydantic import TypeAdapter

from finetune_contract.failures import FailureClass, TrainingError
from finetune_contract.run_order import RunOrder
from finetune_trainer.notes import Note
from finetune_trainer.ranks import Ranks
from finetune_trainer.rows import Form, read_rows
from finetune_trainer.seeds import permutation
from finetune_trainer.template import may_ask_for_date
from finetune_trainer.tokenise import Tokens, load_tokenizer, tokenise

_CACHE_FORMAT = 2
_COUNTS = "counts"
_JSON_LINES = (".jsonl", ".ndjson", ".json")
_NOTES = TypeAdapter(tuple[Note, ...])


@dataclass(frozen=True, kw_only=True)
class Data:
    """`train_rows` and `eval_rows` are indices into the tokens beside them."""

    train: Tokens
    train_rows: npt.NDArray[np.int64]
    eval: Tokens
    eval_rows: npt.NDArray[np.int64]


def load_data(order: RunOrder, ranks: Ranks) -> Data:
    """Collective. The first rank of each member tokenises, the others read what it wrote. Raises TrainingError naming the row."""
    if ranks.is_local_leader:
        _tokens_of(order, order.train_paths, "spec.dataset.uri")
        if order.eval_paths:
            _tokens_of(order, order.eval_paths, "spec.dataset.evalUri")
    dist.barrier()
    train = _tokens_of(order, order.train_paths, "spec.dataset.uri")
    if order.eval_paths:
        held_out = _tokens_of(order, order.eval_paths, "spec.dataset.evalUri")
        return Data(train=train, train_rows=_all(train), eval=held_out, eval_rows=_all(held_out))
    held_rows, kept_rows = split(len(train), order.config.dataset.eval_fraction, order.config.training.seed)
    return Data(train=train, train_rows=kept_rows, eval=train, eval_rows=held_rows)


def split(num_rows: int, fraction: float, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(held-out rows, training rows), each in file order; at least one held-out row unless the fraction is 0."""
    num_held = max(1, round(num_rows * fraction)) if fraction > 0 else 0
    if num_held >= num_rows:
        message = (
            f"spec.dataset.evalFraction: {fraction} of {num_rows} usable rows leaves none to train on; "
            "give more rows, or held-out rows of their own by evalUri"
        )
        raise TrainingError(FailureClass.USER_ERROR, message)
    shuffled = permutation(num_rows, seed, "held-out")
    return np.sort(shuffled[:num_held]), np.sort(shuffled[num_held:])


def _all(tokens: Tokens) -> npt.NDArray[np.int64]:
    return np.arange(len(tokens), dtype=np.int64)


def _tokens_of(order: RunOrder, files: tuple[str, ...], field: str) -> Tokens:
    path = Path(order.cache_dir) / f"tokens-{_cache_key(order, field)}.npz"
    if path.exists():
        return _read(path)
    dataset, training = order.config.dataset, order.config.training
    form: Literal["auto"] | Form = dataset.format
    rows = read_rows(_one_file(files, path, field), field=field, form=form)
    tokenizer = load_tokenizer(Path(order.model_dir), model_uri=order.config.model.uri)
    limit, template = training.max_sequence_length, training.chat_template
    tokens = tokenise(rows, tokenizer, limit=limit, train_on=training.train_on, template=template, day=order.config.job.created)
    _write(path, tokens)
    return tokens


def _one_file(files: tuple[str, ...], tokens: Path, field: str) -> Path:
    """The file, or all of them one after another in a file beside the tokens. Raises TrainingError for files that are no JSON lines."""
    if len(files) == 1:
        return Path(files[0])
    others = [Path(file).name for file in files if not file.endswith(_JSON_LINES)]
    if others:
        message = f"{field}: of {len(files)} files {len(others)} are not JSON lines, such as {others[0]!r}; wanted files that end in .jsonl"
        raise TrainingError(FailureClass.USER_ERROR, message)
    tokens.parent.mkdir(parents=True, exist_ok=True)
    joined = tokens.with_suffix(f".{os.getpid()}.jsonl")
    with joined.open("wb") as rows:
        for file in files:
            data = Path(file).read_bytes()
            rows.write(data if data.endswith(b"\n") else data + b"\n")
    return joined


def _cache_key(order: RunOrder, field: str) -> str:
    training = order.config.training
    parts = (
        _CACHE_FORMAT,
        field,
        order.dataset_digest,
        order.model_digest,
        order.config.dataset.format,
        training.train_on,
        training.max_sequence_length,
        training.chat_template,
        order.config.job.created if may_ask_for_date(Path(order.model_dir), training.chat_template) else None,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _write(path: Path, tokens: Tokens) -> None:
    """Whole or not at all: a killed writer leaves no half cache behind."""
    buffer = io.BytesIO()
    counts = np.asarray([tokens.num_cut, tokens.num_dropped])
    notes = np.frombuffer(_NOTES.dump_json(tokens.notes), dtype=np.uint8)
    np.savez(buffer, ids=tokens.ids, is_target=tokens.is_target, starts=tokens.starts, numbers=tokens.numbers, counts=counts, notes=notes)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_bytes(buffer.getvalue())
    partial.replace(path)


def _read(path: Path) -> Tokens:
    with np.load(path) as arrays:
        counts = arrays[_COUNTS]
        return Tokens(
            ids=arrays["ids"],
            is_target=arrays["is_target"],
            starts=arrays["starts"],
            numbers=arrays["numbers"],
            num_cut=int(counts[0]),
            num_dropped=int(counts[1]),
            notes=_NOTES.validate_json(arrays["notes"].tobytes()),
        )
