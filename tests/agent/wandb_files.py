"""Reads the files that an offline run of Weights & Biases leaves: records in blocks of 32 KiB, as in LevelDB's log."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record

_BLOCK_BYTES, _FILE_HEADER_BYTES, _RECORD_HEADER = 32768, 7, struct.Struct("<IHB")
_FULL, _LAST = 1, 4


def history(folder: Path) -> list[dict]:
    """What was logged, in the order of the files' names: one dictionary a record, `_step` among its keys."""
    rows = []
    for file in sorted(folder.rglob("*.wandb")):
        for record in _records(file.read_bytes()):
            if record.WhichOneof("record_type") == "history":
                rows.append({"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item})
    return rows


def run_ids(folder: Path) -> set[str]:
    records = [record for file in folder.rglob("*.wandb") for record in _records(file.read_bytes())]
    return {record.run.run_id for record in records if record.WhichOneof("record_type") == "run"}


def _records(data: bytes) -> Iterator[Record]:
    position, parts = _FILE_HEADER_BYTES, b""
    while position + _RECORD_HEADER.size <= len(data):
        left = _BLOCK_BYTES - position % _BLOCK_BYTES
        if left < _RECORD_HEADER.size:
            position += left
            continue
        _, num_bytes, kind = _RECORD_HEADER.unpack_from(data, position)
        position += _RECORD_HEADER.size
        parts += data[position : position + num_bytes]
        position += num_bytes
        if kind in {_FULL, _LAST}:
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record
