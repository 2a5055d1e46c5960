"""One corpus of job files; the first line of each says what the cluster does with it. `e2e/test_validate_corpus.py` asks the API server."""

from pathlib import Path

import jsonschema
import pytest
from tests.builders.crd import spec_schema

from finetune_operator.api.rules import without_nulls
from finetune_operator.api.yaml_reader import read_documents
from finetune_operator.cli import check_file

CORPUS = Path(__file__).resolve().parent.parent / "golden" / "corpus"
FILES = sorted(CORPUS.glob("*.yaml"))
OF_THE_SCHEMA = "refused by the schema"


def verdict(file: Path) -> tuple[str, str]:
    """(accepted or refused by WHOM, the words of validate)."""
    who, _, words = file.read_text(encoding="utf-8-sig").splitlines()[0].removeprefix("# ").partition(": ")
    return who, words


def test_the_corpus_has_both_kinds() -> None:
    kinds = [verdict(file)[0] for file in FILES]
    assert len(FILES) >= 160
    assert kinds.count("accepted") >= 50
    assert {"refused by the pod", "refused by the webhook", "refused by the client", OF_THE_SCHEMA} < set(kinds)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_validate_says_what_the_file_says(file: Path) -> None:
    who, words = verdict(file)
    errors = [line for is_error, line in check_file(file, is_local=False) if is_error]
    if who == "accepted":
        assert errors == []
    else:
        assert any(words in line for line in errors), errors


@pytest.mark.parametrize("file", [file for file in FILES if verdict(file)[0] == "accepted"], ids=lambda file: file.stem)
def test_what_is_accepted_fits_the_resource_definition(file: Path) -> None:
    """Types, bounds and patterns of the definition itself, without our models."""
    document = read_documents(file.read_text(encoding="utf-8-sig"))[0].value
    jsonschema.validate(without_nulls(document["spec"]), spec_schema())


STRUCTURAL = ("quantity-", "image-", "secret-name", "node-selector-number", "toleration-value", "endpoint", "revision-", "half-an-epoch")


@pytest.mark.parametrize(
    "file",
    [file for file in FILES if verdict(file)[0] == OF_THE_SCHEMA and file.stem.startswith(STRUCTURAL)],
    ids=lambda file: file.stem,
)
def test_the_definition_refuses_bad_words_without_the_webhook(file: Path) -> None:
    document = read_documents(file.read_text())[0].value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(without_nulls(document["spec"]), spec_schema())


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + (CORPUS / "plain.yaml").read_bytes())
    assert not any(is_error for is_error, _ in check_file(file, is_local=False))
