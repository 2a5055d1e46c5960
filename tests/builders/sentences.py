"""What is wrong with the number of a noun in a sentence for people."""

import re

# Every noun that a sentence of the product counts, in the plural.
PLURALS = (
    "bytes|characters|commits|crashes|devices|digits|documents|entries|files|formations|gangs|gradients|jobs|levels|lines|members|"
    "messages|micro-batches|nodes|numbers|pods|processes|ranks|recoveries|restarts|rows|seconds|spares|steps|tensors|threads|times|"
    "tokens|values|weights"
)
ADJECTIVES = r"(?:(?!(?:of|is|are|to|and|than|the|plus|found|for|in|with) )[a-z-]+ ){0,2}"
_MISCOUNTED = re.compile(rf"(?<![\w.,:/-])1 {ADJECTIVES}(?:{PLURALS})\b")


def miscounted(sentence: str) -> str | None:
    """The words that count one of many, such as "1 members"; None if every noun agrees with its number."""
    found = _MISCOUNTED.search(sentence)
    return None if found is None else found[0]
