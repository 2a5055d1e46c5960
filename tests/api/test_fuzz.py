"""Whatever a file holds, `finetune validate` says something printable about it. FUZZ_EXAMPLES=20000 for the long run."""

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders.fuzz import fuzz
from tests.builders.texts import LETTERS

from finetune_operator.api.check_document import error_lines
from finetune_operator.api.rules import check_spec, parse_job
from finetune_operator.api.spec_error import SpecError
from finetune_operator.api.yaml_reader import Document, read_documents
from finetune_operator.edge.review import review

GOOD = read_documents((Path(__file__).resolve().parent.parent / "golden" / "good.yaml").read_text())[0].value
FUZZ = settings(fuzz(60), derandomize=True)
FILE = Path("job.yaml")
words = st.text(alphabet=LETTERS + "\ud800", max_size=20) | st.sampled_from(
    ["1e3", "128Gi", "null", "on", "2024-05-01", "{{ x }}", "<<", "s3://a/b"]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | words
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4))
markup = st.text(alphabet="abc:-{}[]&*!<>|?%@'\"#,~ \n\t\x1b\u202e0159.eE", max_size=120)


def is_told(document: Document) -> bool:
    """Every line can be printed; True if there is an error."""
    lines = list(error_lines(FILE, document, is_local=False))
    assert all(line.isprintable() and len(line) < 4000 for line in lines)
    return bool(lines)


def look_at(text: str) -> None:
    try:
        documents = read_documents(text)
    except SpecError as refusal:
        documents, said = (), str(refusal)
        is_printable = said.isprintable()
    else:
        is_printable = True
    assert is_printable
    for document in documents:
        is_told(document)


@FUZZ
@given(st.binary(max_size=200))
def test_any_bytes(content: bytes) -> None:
    look_at(content.decode(errors="surrogateescape"))


@FUZZ
@given(markup)
def test_any_markup(text: str) -> None:
    look_at(text)
    look_at(f"apiVersion: finetune.dev/v1alpha1\nkind: FineTuneJob\nmetadata: {{name: x}}\nspec:\n  training: {text}")


@FUZZ
@given(values)
def test_any_yaml(value: Any) -> None:
    look_at(yaml.safe_dump(value, allow_unicode=True))
    look_at(yaml.safe_dump({**GOOD, "metadata": value}))
    look_at(yaml.safe_dump({**GOOD, "spec": {**GOOD["spec"], "placement": value}}))


def paths(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [before, *(path for key, child in inner for path in paths(child, (*before, key)))]


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    if isinstance(value, dict):
        return {key: changed(child, path[1:], new) if key == path[0] else child for key, child in value.items()}
    return [changed(child, path[1:], new) if index == path[0] else child for index, child in enumerate(value)]


@FUZZ
@given(st.sampled_from(paths(GOOD)), values)
def test_a_good_job_with_one_value_changed(path: tuple[Any, ...], new: Any) -> None:
    job = changed(GOOD, path, new)
    look_at(yaml.safe_dump(job))
    assert isinstance(review(job, None), tuple)
    assert isinstance(review(job, GOOD), tuple)
    assert isinstance(review(GOOD, job), tuple)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "a: &a [x, x]\n" + "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else '*a'] * 9)}]" for n in range(9)),
        "- " * 5_000 + "x",
        "a: " + "9" * 5_000,
        "? " * 3_000,
        "x" * 2_000_000,
    ],
    ids=["depth", "aliases", "lists", "digits", "keys", "size"],
)
def test_nothing_large_takes_long_or_much(text: str) -> None:
    look_at(text)


def test_the_rules_that_reconcile_asks_cost_nothing_whatever_a_template_holds() -> None:
    """They are asked in the one loop that serves everybody: compiling this would take seconds of it."""
    template = "{{ messages }}" * (65536 // len("{{ messages }}"))
    job = parse_job({**GOOD, "spec": {**GOOD["spec"], "training": {"chatTemplate": template}}})
    began = time.process_time()
    errors = check_spec(job)
    assert time.process_time() - began < 0.1
    assert errors == ()
