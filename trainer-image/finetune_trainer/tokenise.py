"""Rows to tokens, a bounded part at a time, so that what is made can be kept, told and gone on with after a kill."""

from array import array
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from finetune_contract.failures import FailureClass, TrainingError
from finetune_contract.plurals import counted
from finetune_contract.values import changed
from finetune_trainer.bad_rows import BadRows
from finetune_trainer.encode import Encoded, Encoder
from finetune_trainer.model_files import blaming_the_model, check_links, check_tokenizer_files, refused
from finetune_trainer.notes import MAX_NOTES, Note
from finetune_trainer.rows import Row, RowError, Rows
from finetune_trainer.tokens import Part, Tally, Tokens, join

TrainOn = Literal["auto", "completions", "all"]
PART_TOKENS = 1 << 18
_PART_ROWS = 1 << 14


def load_tokenizer(folder: Path, *, model_uri: str) -> PreTrainedTokenizerBase:
    """Raises TrainingError if the folder holds no fast tokenizer, or one without words, which the library makes of nothing."""
    check_links(folder, model_uri=model_uri)
    check_tokenizer_files(folder, model_uri=model_uri)
    with blaming_the_model(model_uri, "has no tokenizer that can be read"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        num_words = tokenizer.vocab_size
    if num_words == 0:
        raise refused(model_uri, "its tokenizer has an empty vocabulary; copy tokenizer.json from the source of the model")
    if not tokenizer.is_fast:
        message = f"spec.model.uri: {model_uri} has a slow tokenizer; wanted one with tokenizer.json"
        raise TrainingError(FailureClass.USER_ERROR, message)
    return tokenizer


def tokenise(
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase,
    *,
    limit: int,
    train_on: TrainOn,
    template: str | None,
    day: date | None = None,
) -> Tokens:
    """All rows at once, in memory. Raises TrainingError for bad rows, and when no row is left to train on."""
    tokenising = Tokenising(rows, encoder_of(rows, tokenizer, train_on=train_on, template=template, day=day), limit=limit)
    parts = list(tokenising.parts())
    tokenising.check()
    return join(iter(parts), tokenising.tally, tuple(file.name for file in rows.files))


def encoder_of(rows: Rows, tokenizer: PreTrainedTokenizerBase, *, train_on: TrainOn, template: str | None, day: date | None) -> Encoder:
    """Raises TrainingError where the form of the rows does not fit the model or what is trained on."""
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
    trains_on_all = train_on == "all" or (train_on == "auto" and rows.form == "text")
    return Encoder(rows, tokenizer, trains_on_all=trains_on_all, template=template, day=day)


class Tokenising:
    """One way through the rows behind those of `done`. Each row is cut at `limit` tokens; what has no target left is dropped.

    `tally` belongs to the parts that were given out so far.
    """

    def __init__(
        self, rows: Rows, encoder: Encoder, *, limit: int, done: Tally | None = None, beat: Callable[[int], None] | None = None
    ) -> None:
        self._rows, self._encoder, self._limit = rows, encoder, limit
        self._beat = beat or (lambda _num_rows: None)
        self.tally = done or Tally()
        self._notes = {note.text: note for note in self.tally.notes}
        self._unused_before = dict(self.tally.unused)

    def parts(self) -> Iterator[Part]:
        """Bounded parts in the order of the rows. Raises TrainingError at the end if rows are bad: all of them in one message."""
        bad, counted, part = BadRows(self._rows.field, self._rows.name_of), self.tally, _Open()
        for row in self._rows.after(self.tally.last_number):
            self._beat(counted.num_rows)
            if row is None:
                continue
            encoded = row if isinstance(row, RowError) else self._encode(row, counted.num_rows)
            counted = changed(counted, num_rows=counted.num_rows + 1)
            if isinstance(encoded, RowError):
                bad.add(encoded, counted.num_rows)
                continue
            assert isinstance(row, Row)
            counted = self._count(counted, row, encoded, part)
            if part.is_full and not bad:
                yield self._close(part, counted)
                part = _Open()
        bad.check(counted.num_rows)
        if part.numbers or counted.last_number > self.tally.last_number:
            yield self._close(part, counted)

    def check(self) -> None:
        """After the last part. Raises TrainingError when nothing is left to train on."""
        tally, field = self.tally, self._rows.field
        if tally.shortest is not None and tally.shortest > self._limit:
            message = (
                f"{field}: every row is longer than spec.training.maxSequenceLength {self._limit}: of {counted(tally.num_rows, 'row')}, "
                f"the shortest has {counted(tally.shortest, 'token')}, the longest {tally.longest}; "
                "raise maxSequenceLength or shorten the rows"
            )
            raise TrainingError(FailureClass.USER_ERROR, message)
        if not tally.num_kept:
            message = f"{field}: no row has a token to train on ({counted(tally.num_rows, 'row')} read); see spec.training.trainOn"
            raise TrainingError(FailureClass.USER_ERROR, message)

    def _encode(self, row: Row, num_rows: int) -> Encoded | RowError:
        try:
            return self._encoder.encode(row, limit=self._limit, beat=partial(self._beat, num_rows))
        except RowError as error:
            return error
        except (TrainingError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever the tokenizer raises is about this row
            return RowError(self._rows.field, row.number, f"the tokenizer cannot read it ({type(error).__name__})")

    def _count(self, tally: Tally, row: Row, encoded: Encoded, part: "_Open") -> Tally:
        length, limit = len(encoded.ids), self._limit
        marks = encoded.is_target[:limit]
        # The first token of a row is predicted from nothing, so a mark on it trains nothing.
        is_kept = any(marks[1:])
        if is_kept:
            part.add(row.number, encoded.ids[:limit], marks)
        for text in encoded.notes:
            note = self._notes.get(text)
            if note is not None or len(self._notes) < MAX_NOTES:
                self._notes[text] = Note(text=text, count=1, first=row.number) if note is None else changed(note, count=note.count + 1)
        return changed(
            tally,
            last_number=row.number,
            num_tokens=tally.num_tokens + (len(marks) if is_kept else 0),
            num_targets=tally.num_targets + (sum(marks) if is_kept else 0),
            num_cut=tally.num_cut + (length > limit),
            num_dropped=tally.num_dropped + (not is_kept),
            shortest=length if tally.shortest is None else min(tally.shortest, length),
            longest=max(tally.longest, length),
        )

    def _close(self, part: "_Open", counted: Tally) -> Part:
        unused = dict(self._unused_before)
        for name, count in self._rows.unused.items():
            unused[name] = unused.get(name, 0) + count
        self.tally = changed(
            counted, notes=tuple(self._notes.values()), unused=unused, bases=tuple(self._rows.bases[: len(self._rows.files)])
        )
        return part.close()


class _Open:
    """A part that rows are added to."""

    def __init__(self) -> None:
        self._ids, self._marks, self._lengths, self.numbers = array("i"), bytearray(), array("q"), array("q")

    @property
    def is_full(self) -> bool:
        return len(self._ids) >= PART_TOKENS or len(self.numbers) >= _PART_ROWS

    def add(self, number: int, ids: list[int], marks: list[bool]) -> None:
        self._ids.extend(ids)
        self._marks.extend(marks)
        self._lengths.append(len(ids))
        self.numbers.append(number)

    def close(self) -> Part:
        return Part(
            ids=np.frombuffer(self._ids, dtype=np.int32),
            is_target=np.frombuffer(self._marks, dtype=np.bool_),
            lengths=np.frombuffer(self._lengths, dtype=np.int64),
            numbers=np.frombuffer(self.numbers, dtype=np.int64),
        )
