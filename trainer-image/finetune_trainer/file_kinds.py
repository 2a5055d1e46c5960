"""What a file of rows is, told by its first bytes and never by its name; what cannot be read is refused by its name with the way out."""

import re
from enum import StrEnum

HEAD_BYTES = 512

_UTF8_BOM = b"\xef\xbb\xbf"


class FileKind(StrEnum):
    """What can be read."""

    JSON_LINES = "JSON lines"
    JSON_ARRAY = "a JSON array"
    GZIP = "gzip"
    PARQUET = "parquet"


class UnreadableFile(Exception):
    """What the file is, and what to do about it; the reader adds its name."""


_UNPACK = "unpack it, or pack the rows with gzip"
_CONVERT = "convert it to JSON lines or parquet"
_UTF8 = "save the file as UTF-8"
# (offset, bytes, what it is, what to do); the first that fits is meant.
_REFUSED: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer and not the rows", "run git lfs pull and upload the file itself"),
    (0, b"PK\x03\x04", "a zip archive", _UNPACK),
    (0, b"PK\x05\x06", "an empty zip archive", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "packed with zstd", _UNPACK),
    (0, b"\xfd7zXZ\x00", "packed with xz", _UNPACK),
    (0, b"BZh", "packed with bzip2", _UNPACK),
    (0, b"\x04\x22\x4d\x18", "packed with lz4", _UNPACK),
    (0, b"\xff\x06\x00\x00sNaPpY", "packed with snappy", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "a rar archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"PARE", "an encrypted parquet file", "write it without encryption"),
    (0, b"ARROW1", "an Arrow (feather) file", _CONVERT),
    (0, b"\xff\xff\xff\xff", "an Arrow stream", _CONVERT),
    (0, b"ORC", "an ORC file", _CONVERT),
    (0, b"Obj\x01", "an Avro file", _CONVERT),
    (0, b"SQLite format 3\x00", "an SQLite database", _CONVERT),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file", _CONVERT),
    (0, b"\x93NUMPY", "a NumPy file", _CONVERT),
    (0, b"%PDF-", "a PDF document", _CONVERT),
    (0, b"\x7fELF", "a program", "check the uri"),
    (0, b"\xff\xfe\x00\x00", "UTF-32 text", _UTF8),
    (0, b"\x00\x00\xfe\xff", "UTF-32 text", _UTF8),
    (0, b"\xff\xfe", "UTF-16 text", _UTF8),
    (0, b"\xfe\xff", "UTF-16 text", _UTF8),
    *((0, b"\x80" + bytes([protocol]), "a Python pickle", _CONVERT) for protocol in range(2, 6)),
)
_OPEN_OBJECT = re.compile(rb"\{[ \t\r]*\n")
_PAGE_STARTS = (b"<!doctype", b"<html", b"<?xml")


def kind_of(head: bytes) -> FileKind:
    """The kind of a file that begins with these bytes (HEAD_BYTES of them, or the whole file). Raises UnreadableFile."""
    if head.startswith(b"\x1f\x8b"):
        return FileKind.GZIP
    if head.startswith(b"PAR1"):
        return FileKind.PARQUET
    for offset, magic, what, advice in _REFUSED:
        if head.startswith(magic, offset):
            raise UnreadableFile(f"the file is {what}; {advice}")
    text = head.removeprefix(_UTF8_BOM).lstrip()
    if b"\x00" in text[:4]:
        what = "UTF-16 text without a mark" if text[:2].count(b"\x00") == 1 else "no text (it holds zero bytes)"
        raise UnreadableFile(f"the file is {what}; {_UTF8}" if "UTF" in what else f"the file is {what}; wanted JSON lines, gzip or parquet")
    if text[:9].lower().startswith(_PAGE_STARTS):
        raise UnreadableFile("the file is a web page or XML; download the data itself, not the page about it")
    if _OPEN_OBJECT.match(text):
        raise UnreadableFile(
            "the file is a JSON object that goes on over many lines; wanted one object a line, or one JSON array of objects"
        )
    return FileKind.JSON_ARRAY if text.startswith(b"[") else FileKind.JSON_LINES
