"""Rows to tokens, with the mask of those that carry loss. Offsets of the rendered text decide, so that any chat template works."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from finetune_contract.failures import FailureClass, TrainingError
from finetune_trainer.rows import Row, RowError, Rows

TrainOn = Literal["auto", "completions", "all"]


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """All kept rows, one after another: row i is `ids[starts[i]:starts[i + 1]]`; `is_target` marks tokens that carry loss.

    `numbers` are line numbers in the file. `num_cut` rows were longer than the limit, `num_dropped` had no target left after that.
    """

    ids: npt.NDArray[np.int32]
    is_target: npt.NDArray[np.bool_]
    starts: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]
    num_cut: int
    num_dropped: int

    def __len__(self) -> int:
        return len(self.numbers)

    def length(self, row: int) -> int:
        return int(self.starts[row + 1] - self.starts[row])


def load_tokenizer(folder: Path, *, model_uri: str) -> PreTrainedTokenizerBase:
    """Raises TrainingError if the folder holds no fast tokenizer."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise TrainingError(FailureClass.USER_ERROR, f"spec.model.uri: {model_uri} has no tokenizer that can be read: {error}") from None
    if not tokenizer.is_fast:
        message = f"spec.model.uri: {model_uri} has a slow tokenizer; wanted one with tokenizer.json"
        raise TrainingError(FailureClass.USER_ERROR, message)
    return tokenizer


def tokenise(rows: Rows, tokenizer: PreTrainedTokenizerBase, *, limit: int, train_on: TrainOn, template: str | None) -> Tokens:
    """Tokenise, cut at `limit` tokens, drop what has no target left. Raises TrainingError when no row is left."""
    if rows.form == "messages" and template is None and not tokenizer.chat_template:
        message = (
            f"{rows.field}: the rows are chat messages, but the model's tokenizer has no chat template; "
            "set spec.training.chatTemplate or take an instruct model"
        )
        raise TrainingError(FailureClass.USER_ERROR, message)
    if rows.form == "text" and train_on == "completions":
        message = (
            f"spec.training.trainOn: completions, but the rows of {rows.field} are text; wanted chat messages or prompt and completion"
        )
        raise TrainingError(FailureClass.USER_ERROR, message)
    encoder = _Encoder(rows, tokenizer, trains_on_all=train_on == "all" or (train_on == "auto" and rows.form == "text"), template=template)
    encoded = [encoder.encode(row) for row in rows.rows]
    lengths = [len(ids) for ids, _ in encoded]
    if min(lengths) > limit:
        message = (
            f"{rows.field}: all {len(lengths)} rows are longer than spec.training.maxSequenceLength {limit}: "
            f"the shortest has {min(lengths)} tokens, the longest {max(lengths)}; raise maxSequenceLength or shorten the rows"
        )
        raise TrainingError(FailureClass.USER_ERROR, message)
    return _pack_up(rows, encoded, limit)


def _pack_up(rows: Rows, encoded: list[tuple[list[int], list[bool]]], limit: int) -> Tokens:
    cut = [(ids[:limit], marks[:limit]) for ids, marks in encoded]
    # The first token of a row is predicted from nothing, so a mark on it trains nothing.
    kept = [index for index, (_, marks) in enumerate(cut) if any(marks[1:])]
    if not kept:
        message = f"{rows.field}: none of the {len(cut)} rows has a token to train on; see spec.training.trainOn"
        raise TrainingError(FailureClass.USER_ERROR, message)
    return Tokens(
        ids=np.concatenate([np.asarray(cut[index][0], dtype=np.int32) for index in kept]),
        is_target=np.concatenate([np.asarray(cut[index][1], dtype=np.bool_) for index in kept]),
        starts=np.concatenate([[0], np.cumsum([len(cut[index][0]) for index in kept])]).astype(np.int64),
        numbers=np.asarray([rows.rows[index].number for index in kept], dtype=np.int64),
        num_cut=sum(len(ids) > limit for ids, _ in encoded),
        num_dropped=len(cut) - len(kept),
    )


class _Encoder:
    """One row to (token ids, marks of tokens that carry loss)."""

    def __init__(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, *, trains_on_all: bool, template: str | None) -> None:
        self._form, self._field, self._tokenizer = rows.form, rows.field, tokenizer
        self._trains_on_all = trains_on_all
        self._template = template or (str(tokenizer.chat_template) if isinstance(tokenizer.chat_template, str) else None)
        self._marks_generation = "generation" in (self._template or "").replace("add_generation_prompt", "")

    def encode(self, row: Row) -> tuple[list[int], list[bool]]:
        if self._form == "text":
            ids = self._ids(row.content["text"], special=True) + self._end()
            return ids, [True] * len(ids)
        if self._form == "prompt-completion":
            prompt = self._ids(row.content["prompt"], special=True)
            completion = self._ids(row.content["completion"], special=False) + self._end()
            return prompt + completion, [self._trains_on_all] * len(prompt) + [True] * len(completion)
        return self._encode_messages(row)

    def _ids(self, text: str, *, special: bool) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=special)["input_ids"])

    def _end(self) -> list[int]:
        end = self._tokenizer.eos_token_id
        return [] if end is None else [int(end)]

    def _encode_messages(self, row: Row) -> tuple[list[int], list[bool]]:
        messages = row.content["messages"]
        if not self._trains_on_all and not any(message["role"] == "assistant" for message in messages):
            raise RowError(self._field, row.number, "no message has the role assistant: there is nothing to train on")
        if self._marks_generation and not self._trains_on_all:
            encoded = self._render(row, messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
            return list(encoded["input_ids"]), [bool(mark) for mark in encoded["assistant_masks"]]
        text = self._render(row, messages)
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = list(encoded["input_ids"])
        if self._trains_on_all:
            return ids, [True] * len(ids)
        spans = self._assistant_spans(row, messages, text)
        return ids, [any(first <= start < end <= last for first, last in spans) for start, end in encoded["offset_mapping"]]

    def _assistant_spans(self, row: Row, messages: list[dict[str, Any]], text: str) -> list[tuple[int, int]]:
        """Where the assistant speaks in the rendered conversation: from the end of the generation prompt to the end of the turn."""
        end_token = self._tokenizer.eos_token
        spans = []
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._render(row, messages[:index], add_generation_prompt=True) if index else ""
            content = message["content"].strip()
            found = text.find(content, len(before)) if text.startswith(before) else -1
            if found < 0:
                problem = f"the chat template does not show messages[{index}] where it was said; give one with generation marks"
                raise RowError(self._field, row.number, f"{problem} as spec.training.chatTemplate, or set spec.training.trainOn: all")
            end = found + len(content)
            if isinstance(end_token, str) and text.startswith(end_token, end):
                end += len(end_token)
            spans.append((len(before), end))
        return spans

    def _render(self, row: Row, messages: list[dict[str, Any]], **options: Any) -> Any:
        options = {"tokenize": False, **options}
        try:
            return self._tokenizer.apply_chat_template(messages, chat_template=self._template, tools=row.content.get("tools"), **options)
        except Exception as error:  # noqa: BLE001 - the template is the user's code: whatever it raises is about this row
            raise RowError(self._field, row.number, f"the chat template refuses it: {error}") from None
