"""One row out of JSON text: a total function, whose every refusal says what is wrong and nothing of what the row holds."""

import json
from typing import Any

from finetune_trainer.columns import kind_of_value
from finetune_trainer.json_text import BadRow, parse_json

_UTF8_BOM = b"\xef\xbb\xbf"


def parse_row(text: bytes) -> dict[str, Any]:
    """The JSON object that one row is. Raises BadRow."""
    text = text.removeprefix(_UTF8_BOM)  # where files that begin with one were put together
    try:
        content = parse_json(text.decode())
    except UnicodeDecodeError as error:
        raise BadRow(f"byte 0x{text[error.start]:02x} is not UTF-8; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise BadRow(f"not JSON ({error.msg} at column {error.colno}); wanted one object a line") from None
    if not isinstance(content, dict):
        raise BadRow(f"wanted a JSON object, got {kind_of_value(content)}")
    return content
