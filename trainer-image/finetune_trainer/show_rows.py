"""`finetune rows`: the first rows of a job as the model sees them, what carries loss marked; then the counts and what is worth a word.

    python -m finetune_trainer.show_rows CONFIG INPUTS --rows 3 [--colour]

It needs the tokenizer and the rows, no weights and no device. Reads every row, so that bad ones are found here and not in the cluster.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from finetune_contract.config import JobConfig
from finetune_contract.failures import TrainingError
from finetune_contract.plurals import counted, verb
from finetune_contract.run_order import RowsInputs
from finetune_trainer.row_warnings import EVAL_FIELD, TRAIN_FIELD, row_warnings
from finetune_trainer.rows import Rows, read_rows
from finetune_trainer.tokenise import Tokenising, encoder_of, load_tokenizer
from finetune_trainer.tokens import Part, Tally


@dataclass(frozen=True)
class Pen:
    """How text that carries loss is set apart."""

    before: str
    after: str


COLOUR, PLAIN = Pen("\x1b[32m", "\x1b[0m"), Pen("[[", "]]")


def show_place(
    config: JobConfig, tokenizer: PreTrainedTokenizerBase, files: Sequence[Path], field: str, *, num_shown: int, pen: Pen
) -> Iterator[str]:
    """Lines for the user about the rows of one place. Raises TrainingError where the job would fail before its first step."""
    dataset, training = config.dataset, config.training
    rows = read_rows(files, field=field, form=dataset.format, columns=dataset.columns)
    encoder = encoder_of(rows, tokenizer, train_on=training.train_on, template=training.chat_template, day=config.job.created)
    tokenising = Tokenising(rows, encoder, limit=training.max_sequence_length)
    left = num_shown
    for part in tokenising.parts():
        yield from _shown(part, rows, tokenizer, left, pen)
        left = max(0, left - len(part.numbers))
    tokenising.check()
    yield _counted(tokenising.tally, field)
    for warning in row_warnings(tokenising.tally, field, limit=training.max_sequence_length):
        yield f"{warning.reason}: {warning.message}"


def _shown(part: Part, rows: Rows, tokenizer: PreTrainedTokenizerBase, num_rows: int, pen: Pen) -> Iterator[str]:
    first = 0
    for number, length in list(zip(part.numbers.tolist(), part.lengths.tolist(), strict=True))[:num_rows]:
        ids, marks = part.ids[first : first + length].tolist(), part.is_target[first : first + length].tolist()
        yield f"{rows.name_of(number)}: {counted(length, 'token')}, {sum(marks)} {verb(sum(marks), 'carries', 'carry')} loss"
        yield render_row(tokenizer, ids, marks, pen)
        yield ""
        first += length


def render_row(tokenizer: PreTrainedTokenizerBase, ids: list[int], marks: list[bool], pen: Pen) -> str:
    """The text of the tokens, special ones included."""
    told = ""
    for is_target, run in groupby(zip(ids, marks, strict=True), key=lambda pair: pair[1]):
        text = visible(str(tokenizer.decode([token for token, _ in run], skip_special_tokens=False, clean_up_tokenization_spaces=False)))
        told += f"{pen.before}{text}{pen.after}" if is_target else text
    return told


def visible(text: str) -> str:
    """Rows are anyone's: what would move a terminal's cursor, and blanks that look like others, come as escapes."""
    return "".join(one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode() for one in text)


def _counted(tally: Tally, field: str) -> str:
    shortest = tally.longest if tally.shortest is None else tally.shortest
    lengths = f"{shortest} to {tally.longest} tokens" if shortest < tally.longest else counted(shortest, "token")
    kept = f"{tally.num_kept} {verb(tally.num_kept, 'is', 'are')} trained on, with {counted(tally.num_tokens, 'token')}"
    return f"{field}: {counted(tally.num_rows, 'row')}, {lengths} long; {kept}"


def main(arguments: list[str] | None = None) -> int:
    """1: the reason stands on stderr, in the user's words."""
    parser = argparse.ArgumentParser(prog="finetune_trainer.show_rows")
    parser.add_argument("config", type=Path)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("--rows", type=int, default=3)
    parser.add_argument("--colour", action="store_true")
    chosen = parser.parse_args(arguments)
    config = JobConfig.model_validate_json(chosen.config.read_text())
    inputs = RowsInputs.model_validate_json(chosen.inputs.read_text())
    places = {TRAIN_FIELD: inputs.dataset_files} | ({EVAL_FIELD: inputs.eval_files} if inputs.eval_files else {})
    try:
        tokenizer = load_tokenizer(Path(inputs.tokenizer_dir), model_uri=config.model.uri)
        for field, files in places.items():
            shown = chosen.rows if field == TRAIN_FIELD else 0
            for line in show_place(
                config, tokenizer, [Path(file) for file in files], field, num_shown=shown, pen=COLOUR if chosen.colour else PLAIN
            ):
                sys.stdout.write(f"{line}\n")
    except TrainingError as error:
        sys.stdout.flush()
        sys.stderr.write(f"{visible(error.message)}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
