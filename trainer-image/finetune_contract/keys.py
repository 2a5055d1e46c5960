"""Names that strangers chose, as text: which of them stay below a folder. inside.py joins them to one."""

MAX_KEY_CHARS = 1024


class LeavesFolder(ValueError):
    """A name or a link that leads out of the folder that it was to stay in; the message is for the user."""


def check_key(key: str) -> str:
    """`key` if it names something below a folder. Raises LeavesFolder for what climbs, starts at the root or cannot be a name."""
    problem = None
    if not key or len(key) > MAX_KEY_CHARS:
        problem = f"it has {len(key)} characters, wanted 1 to {MAX_KEY_CHARS}"
    elif "\\" in key or any(not char.isprintable() for char in key):
        problem = "it has a backslash or a control character"
    elif key.startswith("/"):
        problem = "it starts with a slash, wanted a relative path"
    elif any(part in {"", ".", ".."} for part in key.split("/")):
        problem = 'one of its parts is empty, "." or ".."'
    if problem is not None:
        raise LeavesFolder(f"{key[:80]!r} is not a path below a folder: {problem}")
    return key
