"""Sentences for people are right in the singular and in the plural: "1 member", never "1 members"."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.builders.sentences import ADJECTIVES, PLURALS, miscounted

from finetune_contract.plurals import counted, verb

ROOT = Path(__file__).resolve().parents[2]
COUNTED_PLAINLY = re.compile(rf"^ {ADJECTIVES}(?:{PLURALS})\b")
# Numbers that are never one, each with its reason.
NEVER_ONE = {
    "trainer-image/finetune_trainer/loop.py: {ranks.world_size} ranks": "fewer micro-batches than ranks, and one at least",
    "trainer-image/finetune_trainer/json_text.py: {len(digits)} digits": "more than a bound",
    "trainer-image/finetune_agent/preparing/row_files.py: {len(found)} files": "more than a bound",
    "trainer-image/finetune_contract/chat_template.py: {len(source)} characters": "more than a bound",
    "trainer-image/finetune_contract/keys.py: {len(key)} characters": "none, or more than a bound",
    "operator/finetune_operator/api/envelope.py: {len(name)} characters": "more than a bound",
    "operator/finetune_operator/api/rules.py: {nodes + spares} pods": "more than a bound",
    "operator/finetune_operator/api/syntax.py: {size} bytes": "more than a bound",
    "operator/finetune_operator/decide/reporting/output.py: {output.num_bytes} bytes": "none, or more than a bound",
    "operator/finetune_operator/decide/reporting/stragglers.py: {times} times": "a factor with a fraction",
    "operator/finetune_operator/local/command.py: {len(documents)} documents": "several, where one was wanted",
    "operator/finetune_operator/local/rows.py: {len(jobs)} jobs": "several, where one was wanted",
    "trainer-image/finetune_agent/launching/zygote.py: {len(threads)} threads": "several, where one was wanted",
    "trainer-image/finetune_trainer/show_rows.py: {tally.longest} tokens": "more than the shortest",
}


@pytest.mark.parametrize(
    ("sentence", "wrong"),
    [
        ("1 members are created", "1 members"),
        ("row 3: 1 usable rows", "1 usable rows"),
        ("a list of 1 held-out training rows", "1 held-out training rows"),
        ("1 member", None),
        ("11 members", None),
        ("1.1 seconds", None),
        ("0.1 s, step 1 of 4 steps", None),
        ("ranks 0 to 1 and 2 rows", None),
    ],
)
def test_a_wrong_number_is_found(sentence: str, wrong: str | None) -> None:
    assert miscounted(sentence) == wrong


def test_a_counted_noun_agrees_with_its_number() -> None:
    assert [counted(num, "row") for num in (0, 1, 2)] == ["0 rows", "1 row", "2 rows"]
    assert [counted(num, "entry", "entries") for num in (0, 1, 2)] == ["0 entries", "1 entry", "2 entries"]
    assert [verb(num, "is", "are") for num in (0, 1, 2)] == ["are", "is", "are"]


def test_no_sentence_of_the_product_counts_without_asking_for_the_plural() -> None:
    found = {f"{path}: {words}" for path in sources() for words in plainly_counted(ast.parse((ROOT / path).read_text()))}
    assert sorted(found - NEVER_ONE.keys()) == []
    assert sorted(NEVER_ONE.keys() - found) == [], "listed, but no longer there"


def test_a_number_before_a_plural_is_found_in_the_code() -> None:
    code = "f\"of {len(rows)} bad rows, {MAX_ROWS} rows at most, {counted(3, 'row')} and {path} files\""
    assert list(plainly_counted(ast.parse(code))) == ["{len(rows)} bad rows", "{path} files"]


def sources() -> Iterator[str]:
    for folder in ("operator", "trainer-image", "examples"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not {"build", "dist"} & set(path.parts):
                yield path.relative_to(ROOT).as_posix()


def plainly_counted(tree: ast.AST) -> Iterator[str]:
    """A value that is written straight before a plural; named constants are known not to be one."""
    for text in (node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)):
        for value, rest in zip(text.values, text.values[1:], strict=False):
            if not isinstance(value, ast.FormattedValue) or not isinstance(rest, ast.Constant):
                continue
            plural = COUNTED_PLAINLY.match(str(rest.value))
            if plural is not None and re.search(r"\b[a-z_]+\b(?!\.[A-Z])", ast.unparse(value.value)):
                yield f"{{{ast.unparse(value.value)}}}{plural[0]}"
