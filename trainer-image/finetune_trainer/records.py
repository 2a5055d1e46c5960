"""The rows of one file as they lie in it, as a stream: JSON lines, a JSON array, gzip of both, parquet.

Nothing here knows what a row should look like. Every length is bounded.
"""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from finetune_contract.plurals import counted
from finetune_trainer.file_kinds import HEAD_BYTES, FileKind, UnreadableFile, kind_of

MAX_ROW_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 20
_PARQUET_ROWS = 64
_MAX_GZIP_RATIO = 300  # of JSON text, 20 is much; a file that is made to fill a disk reaches 1,000
_FREE_GZIP_BYTES = 1 << 30  # up to here no ratio is asked for
_GZIP_WBITS = 31
_UTF8_BOM = b"\xef\xbb\xbf"
_MARK = re.compile(rb'["{}\[\],]')
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
NOT_READ = "(not read)"  # in place of the values of a column that nobody asked for


@dataclass(frozen=True, kw_only=True)
class Record:
    """One row: JSON text, or what parquet holds. `number` counts lines, elements or rows from 1. `share` of the file is read.

    Blank content is no row: it only says that the reading goes on.
    """

    number: int
    content: bytes | dict[str, Any]
    share: float


def read_records(path: Path, columns: frozenset[str]) -> Iterator[Record]:
    """`columns` are those that a parquet file is read for. Raises UnreadableFile for a file that is damaged or of another kind."""
    with path.open("rb") as file:
        num_bytes = max(path.stat().st_size, 1)
        kind = kind_of(file.read(HEAD_BYTES))
        file.seek(0)
        if kind is FileKind.PARQUET:
            yield from _read_parquet(path, columns)
            return
        chunks = _chunks(file)
        if kind is FileKind.GZIP:
            head = next(_unpacked(_chunks(file), num_bytes), b"")
            kind = _kind_inside(head)
            file.seek(0)
            chunks = _unpacked(_chunks(file), num_bytes)
        split = _elements(chunks) if kind is FileKind.JSON_ARRAY else _lines(chunks)
        for number, content in split:
            yield Record(number=number, content=content, share=file.tell() / num_bytes)


def _kind_inside(head: bytes) -> FileKind:
    try:
        kind = kind_of(head[:HEAD_BYTES])
    except UnreadableFile as error:
        raise UnreadableFile(f"within gzip: {error}") from None
    if kind in {FileKind.GZIP, FileKind.PARQUET}:
        raise UnreadableFile(f"the file is {kind} within gzip; unpack it once")
    return kind


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


def _unpacked(chunks: Iterator[bytes], num_packed: int) -> Iterator[bytes]:
    """Several gzip members follow each other as one. Never more than a chunk is unpacked at a time."""
    unpack, num_unpacked, is_open = zlib.decompressobj(_GZIP_WBITS), 0, False
    try:
        for chunk in chunks:
            rest = chunk
            while rest:
                data = unpack.decompress(rest, _CHUNK_BYTES)
                is_open = not unpack.eof
                num_unpacked += len(data)
                if num_unpacked > max(_FREE_GZIP_BYTES, _MAX_GZIP_RATIO * num_packed):
                    raise UnreadableFile(f"the file unpacks to more than {_MAX_GZIP_RATIO} times its size; wanted rows of text")
                if data:
                    yield data
                rest = unpack.unconsumed_tail
                if unpack.eof:
                    rest = unpack.unused_data.lstrip(b"\x00")  # padding, as tape blocks have it
                    unpack = zlib.decompressobj(_GZIP_WBITS)
    except zlib.error as error:
        raise UnreadableFile(
            f"the gzip data is damaged after {counted(num_unpacked, 'byte')} of rows ({error}); upload the file again"
        ) from None
    if is_open:
        raise UnreadableFile(f"the gzip data ends in the middle, after {counted(num_unpacked, 'byte')} of rows; upload the whole file")


def _lines(chunks: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """(line, its text) without line ends; a line beyond MAX_ROW_BYTES is cut behind it, so that its reader sees its length."""
    pieces: list[bytes] = []
    number, size, is_first = 1, 0, True
    for chunk in chunks:
        *ended, rest = (chunk.removeprefix(_UTF8_BOM) if is_first else chunk).split(b"\n")
        is_first = False
        for line in ended:
            whole = b"".join((*pieces, line)) if pieces else line
            if whole.strip():
                yield number, whole
            number, pieces, size = number + 1, [], 0
        if size <= MAX_ROW_BYTES:
            pieces.append(rest)
            size += len(rest)
        yield number, b""
    if (whole := b"".join(pieces)).strip():
        yield number, whole


def _elements(chunks: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """(position from 1, text) of each element of one JSON array. What the elements are is not checked."""
    number, depth, data, at, start = 0, 0, b"", 0, 0
    for chunk in chunks:
        data += chunk
        while (mark := _MARK.search(data, at)) is not None:
            sign, at = mark.group(), mark.end()
            if sign == b'"':
                string = _STRING.match(data, mark.start())
                if string is None:
                    at = mark.start()
                    break
                at = string.end()
            elif sign in b"{[":
                depth += 1
                start = at if depth == 1 else start
            elif sign in b"}]":
                depth -= 1
            if (sign == b"," and depth == 1) or (sign in b"]}" and depth == 0):
                element, start = data[start : mark.start()].strip(), at
                if element or sign == b"," or number:
                    number += 1
                    yield number, element or sign
            if depth < 1 and sign != b'"':
                break
        if depth < 1 and data[at:].strip():
            raise UnreadableFile("there is text after the end of the JSON array; wanted one array of objects, or one object a line")
        data, at, start = data[start:], at - start, 0
        if len(data) > MAX_ROW_BYTES:
            raise UnreadableFile(f"element {number + 1} of the JSON array is longer than {MAX_ROW_BYTES >> 20} MiB")
        yield number, b""
    if depth:
        raise UnreadableFile(f"the JSON array is not closed after element {number}; upload the whole file")


def _read_parquet(path: Path, columns: frozenset[str]) -> Iterator[Record]:
    # Not at the top of the module: pyarrow starts threads, and the process that workers are forked from must have one only.
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path, memory_map=True, pre_buffer=False)
        names, num_rows, number = file.schema_arrow.names, max(file.metadata.num_rows, 1), 0
        others = dict.fromkeys((name for name in names if name not in columns), NOT_READ)
        read = [name for name in names if name in columns]
        if len(read) > len(set(read)):
            double = next(name for name in read if read.count(name) > 1)
            raise UnreadableFile(f"the column {double} is there twice; keep one of them")
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=read, use_threads=False):
            for row in batch.to_pylist():
                number += 1
                yield Record(number=number, content={**row, **others}, share=number / num_rows)
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, OverflowError) as error:
        raise UnreadableFile(f"the parquet file is damaged or cannot be read ({type(error).__name__}); write it again") from None
