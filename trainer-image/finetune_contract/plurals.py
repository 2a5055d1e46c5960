"""Numbers in sentences for people: 1 member is, 2 members are."""


def counted(num: int, noun: str, plural: str | None = None) -> str:
    """1 member, 2 members. `plural` is for nouns that take more than an s."""
    return f"{num} {noun if num == 1 else plural or f'{noun}s'}"


def verb(num: int, singular: str, plural: str) -> str:
    """The form that agrees with a counted subject, such as `verb(num, "is", "are")`."""
    return singular if num == 1 else plural
