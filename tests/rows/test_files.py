"""Files of rows: what is read, what is refused by its name, and that no file makes the reader raise anything but the user's error."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders.fuzz import fuzz
from tests.builders.texts import texts

from finetune_contract.failures import FailureClass, TrainingError
from finetune_trainer import records
from finetune_trainer.bad_rows import BadRows
from finetune_trainer.rows import RowError, read_rows

FIELD = "spec.dataset.uri"
ROWS = [{"text": f"row {number} \u2028 \u00e9"} for number in range(1, 8)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def read(path, **options):
    """(number, content or problem) of every row."""
    rows = read_rows(path, field=FIELD, form="auto", **options)
    found = [row for row in rows if row is not None]
    return [(row.number, row.problem if isinstance(row, RowError) else row.content) for row in found]


def write(folder, data, name="rows.jsonl"):
    (folder / name).write_bytes(data)
    return folder / name


def packed(data):
    """Without a time, which would be in the test's id: then no two workers collect the same tests."""
    return gzip.compress(data, mtime=0)


def parquet_of(rows, path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=3)
    return path


@pytest.mark.parametrize("chunk_bytes", [7, 64, 1 << 20])
@pytest.mark.parametrize(
    "data",
    [
        LINES,
        b"\xef\xbb\xbf" + LINES,
        LINES.rstrip(b"\n"),
        json.dumps(ROWS).encode(),
        json.dumps(ROWS, indent=2, ensure_ascii=False).encode(),
        gzip.compress(LINES),
        gzip.compress(LINES[:40]) + gzip.compress(LINES[40:]),
        gzip.compress(json.dumps(ROWS).encode()),
    ],
    ids=["lines", "mark", "no last end", "array", "indented array", "gzip", "two gzip members", "array in gzip"],
)
def test_the_same_rows_come_out_of_every_kind_whatever_the_size_of_chunks(data, chunk_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_CHUNK_BYTES", chunk_bytes)
    assert read(write(tmp_path, data, "rows.of.any.name")) == [(number, row) for number, row in enumerate(ROWS, start=1)]


def test_parquet_is_read_by_its_columns_and_nulls_are_not_there(tmp_path):
    rows = [{"text": row["text"], "note": "x", "tools": None} for row in ROWS]
    assert read(parquet_of(rows, tmp_path / "rows.bin")) == [
        (number, {"text": row["text"], "note": records.NOT_READ}) for number, row in enumerate(ROWS, start=1)
    ]


def test_messages_of_parquet_are_those_of_json(tmp_path):
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}] * 2
    assert [content for _, content in read(parquet_of(rows, tmp_path / "rows.parquet"))] == rows


def test_a_column_that_a_table_has_twice_is_refused(tmp_path):
    columns = [pyarrow.array(["a"]), pyarrow.array(["b"])]
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, names=["text", "text"]), tmp_path / "rows.parquet")
    with pytest.raises(TrainingError, match="the column text is there twice; keep one of them"):
        read(tmp_path / "rows.parquet")


def test_a_mark_between_files_that_were_put_together_is_no_part_of_a_row(tmp_path):
    data = b'\xef\xbb\xbf{"text": "a"}\n\xef\xbb\xbf{"text": "b"}\n'
    assert read(write(tmp_path, data)) == [(1, {"text": "a"}), (2, {"text": "b"})]


def test_several_files_are_one_data_set_and_a_row_is_named_after_its_file(tmp_path):
    files = [write(tmp_path, b'{"text": "a"}\n\n{"text": "b"}\n', "a.jsonl"), write(tmp_path, b'[{"text": "c"}, {"note": ""}]', "b.json")]
    rows = read_rows(files, field=FIELD, form="auto")
    found = [row for row in rows if row is not None]
    assert [rows.name_of(row.number) for row in found] == ["a.jsonl row 1", "a.jsonl row 3", "b.json row 1", "b.json row 2"]
    assert isinstance(found[3], RowError)
    assert [row.number for row in rows.after(found[1].number) if row is not None] == [row.number for row in found[2:]]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
            "is a Git LFS pointer and not the rows; run git lfs pull",
        ),
        (b"PK\x03\x04rest", "is a zip archive; unpack it"),
        (b"\x28\xb5\x2f\xfdrest", "is packed with zstd; unpack it"),
        (b"\xfd7zXZ\x00rest", "is packed with xz"),
        (b"BZh91AY", "is packed with bzip2"),
        ("\ufeff" + '{"text": "a"}', "is UTF-16 text; save the file as UTF-8"),
        ('{"text": "a"}', "is UTF-16 text without a mark"),
        (b"ARROW1\x00\x00", "is an Arrow (feather) file; convert it"),
        (b"\n <!DOCTYPE html><html>", "is a web page or XML"),
        (packed(b"\x00" * 257 + b"ustar" + b"\x00" * 300), "within gzip: the file is a tar archive"),
        (packed(LINES)[:-12], "gzip data ends in the middle"),
        (packed(LINES)[:-8] + b"\x00" * 8, "gzip data is damaged"),
        (b"PAR1" + b"\x00" * 40, "parquet file is damaged"),
        (b'[{"text": "a"}, {"te', "JSON array is not closed after element 1"),
        (b'[{"text": "a"}]\n{"text": "b"}', "there is text after the end of the JSON array"),
        (b"\n \n", "the file has no rows"),
        (b"[]", "the file has no rows"),
        (b'{\n  "text": "a"\n}\n', "is a JSON object that goes on over many lines; wanted one object a line, or one JSON array of objects"),
        (packed(b'{ \r\n"data": []}'), "within gzip: the file is a JSON object that goes on over many lines"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_name(data, words, tmp_path):
    with pytest.raises(TrainingError) as raised:
        read(write(tmp_path, data if isinstance(data, bytes) else data.encode("utf-16-le")))
    assert (raised.value.failure_class, words in raised.value.message) == (FailureClass.USER_ERROR, True), raised.value.message


def test_a_file_that_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_FREE_GZIP_BYTES", 1 << 20)
    with pytest.raises(TrainingError, match="unpacks to more than 300 times its size"):
        read(write(tmp_path, gzip.compress(b'{"text": "' + b"a" * (8 << 20) + b'"}')))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"text": "a", "text": "b"}', "the key text is there twice in one object; keep one of them"),
        ('{"text": "a", "meta": {"x": 1, "x": 1}}', "the key x is there twice"),
        ('{"text": "a", "x": ' + "[" * 5000 + "]" * 5000 + "}", "is nested deeper than 100 levels"),
        ('{"text": "a", "x": ' + '{"a":' * 120 + "1" + "}" * 120 + "}", "is nested deeper than 100 levels"),
        ('{"text": "a", "x": ' + "9" * 5000 + "}", "a number has 5000 digits"),
        ('{"text": "a", "x": NaN}', "NaN is not a JSON number"),
        ('{"text": "a", "x": [-Infinity]}', "-Infinity is not a JSON number"),
        ('{"text": "a", "x": 1e999}', "a number is too large"),
        ('{"text": "\\ud83d"}', "half of a surrogate pair"),
        ('{"messages": [{"role": "user", "content": "\\udc00"}]}', "half of a surrogate pair"),
        ('"hunter2"', "wanted a JSON object, got a string of 7 characters"),
        ('{"password": hunter2}', "not JSON (Expecting value at column 14)"),
    ],
)
def test_a_bad_row_is_told_without_a_word_of_its_content(line, problem, tmp_path):
    (number, told) = read(write(tmp_path, b'{"text": "a"}\n' + line.encode()))[1]
    assert number == 2
    assert problem in told
    assert "hunter2" not in told


def test_a_pair_of_surrogates_is_one_character(tmp_path):
    assert read(write(tmp_path, b'{"text": "\\ud83d\\ude00"}')) == [(1, {"text": "\U0001f600"})]


def test_a_row_without_end_is_told_and_the_next_one_read(tmp_path, monkeypatch):
    for module in (records, __import__("finetune_trainer.rows", fromlist=["rows"])):
        monkeypatch.setattr(module, "MAX_ROW_BYTES", 1 << 20)
    data = b'{"text": "' + b"a" * (5 << 20) + b'"}\n{"text": "b"}\n'
    (_, told), second = read(write(tmp_path, data))
    assert "is longer than 1 MiB" in told
    assert second == (2, {"text": "b"})


def test_all_bad_rows_are_one_message(tmp_path):
    rows = read_rows(write(tmp_path, LINES + b'{"note": ""}\nx\n' * 9), field=FIELD, form="auto")
    bad = BadRows(FIELD, rows.name_of)
    for row in rows:
        if isinstance(row, RowError):
            bad.add(row, row.number)
    with pytest.raises(TrainingError) as raised:
        bad.check(25)
    assert raised.value.message == (
        "spec.dataset.uri: 18 of 25 rows are bad. The first 10: "
        "rows 8, 10, 12, 14, 16: has no text: it has note; the rows of this file are of the form text; "
        "rows 9, 11, 13, 15, 17: not JSON (Expecting value at column 1); wanted one object a line"
    )


def test_a_message_about_bad_rows_fits_and_the_reading_of_a_wrong_file_ends(tmp_path):
    bad = BadRows(FIELD, lambda number: f"row {number}")
    for number in range(1, 1000):
        bad.add(RowError(FIELD, number, f"{number} " + "long words " * 40), number)
    with pytest.raises(TrainingError, match="1000 of the first 1000 rows are bad; reading stopped there") as raised:
        bad.add(RowError(FIELD, 1000, "long words"), 1000)
    assert len(raised.value.message) <= 1000
    assert "row 10: 10" in raised.value.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts(8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["messages", "role", "content", "from", "value", "text"]), inner)
    ),
    max_leaves=12,
)
ROW = st.dictionaries(
    st.sampled_from(["messages", "prompt", "completion", "text", "conversations", "output", "history", "instruction"]), JSON
)
HEADS = (b"", b"\x1f\x8b\x08\x00", b"PAR1", b"[", b"[{", b"\xef\xbb\xbf", b'{"text": "')


@fuzz(200)
@given(head=st.sampled_from(HEADS), body=st.binary(max_size=200), columns=st.sampled_from([None, "sharegpt", "alpaca"]))
def test_no_bytes_make_the_reader_raise_anything_but_the_users_error(head, body, columns, tmp_path):
    try:
        read(write(tmp_path, head + body), columns=columns)
    except TrainingError as error:
        told = error.failure_class
    else:
        told = FailureClass.USER_ERROR
    assert told is FailureClass.USER_ERROR


@fuzz(200)
@given(rows=st.lists(ROW, min_size=1, max_size=4), columns=st.sampled_from([None, "sharegpt", "alpaca"]))
def test_no_json_makes_the_reader_raise_anything_but_the_users_error(rows, columns, tmp_path):
    lines = "\n".join(json.dumps(row) for row in rows)
    found = read(write(tmp_path, lines.encode("utf-8", "surrogatepass")), columns=columns)
    assert [number for number, _ in found] == list(range(1, len(rows) + 1))
