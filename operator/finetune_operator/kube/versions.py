"""Order of resourceVersions of one kind; they are comparable decimal numbers (Kubernetes 1.35 made it a promise, etcd always kept it)."""


def is_newer(version: str, than: str) -> bool:
    """True when `version` was written after `than`; an unreadable one counts as newer, so that news are never dropped."""
    if version.isascii() and version.isdigit() and than.isascii() and than.isdigit():
        return int(version) > int(than)
    return version != than
