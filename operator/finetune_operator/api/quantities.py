"""resource.Quantity of Kubernetes: `128Gi`, `1500m`, `2e3`, exact. Only what a pod can ask for: not negative."""

import re
from fractions import Fraction

# Also the pattern in the resource definition. No sign: nothing can be asked for that is less than nothing.
QUANTITY_PATTERN = r"^([0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20})(([KMGTPE]i)|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?$"
_PARTS = re.compile(r"(?P<number>[0-9.]+)(?P<suffix>.*)")
_TENS = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_TWOS = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


def parse_quantity(text: str) -> Fraction:
    """Raises ValueError for what is no quantity."""
    found = _PARTS.fullmatch(text)
    if found is None or not re.fullmatch(QUANTITY_PATTERN, text):
        raise ValueError(f"{text!r} is not a quantity; wanted a number with or without a unit, such as 128Gi, 500m or 8")
    number, suffix = found["number"], found["suffix"]
    amount = Fraction(f"{number}0" if number.endswith(".") else number)
    if suffix in _TWOS:
        return Fraction(amount * 2 ** _TWOS[suffix])
    power = _TENS[suffix] if suffix in _TENS else int(suffix[1:])
    return Fraction(amount * Fraction(10) ** power)
