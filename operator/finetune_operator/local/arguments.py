"""Kinds of arguments that more than one command takes."""

import argparse
from collections.abc import Callable


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """A `type` for argparse: ASCII digits from `least` to `most`."""

    def parse(text: str) -> int:
        is_number = text.isascii() and text.isdigit() and len(text) < 10
        if not is_number or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"got {text[:40]!r}, wanted a whole number from {least} to {most}")
        return int(text)

    return parse
