"""Reads YAML as Kubernetes does: a plain `2e-4` is a number, a key given twice is an error. It checks nothing else."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from finetune_operator.api.spec_error import SpecError

# YAML 1.2 core schema; PyYAML follows 1.1, where a float without a dot is a string.
_FLOAT = re.compile(r"^(?:[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$")
Path = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True)
class Document:
    """One YAML document. `lines` gives the 1-based line of every field path."""

    value: Any
    lines: dict[Path, int]


class _Loader(yaml.SafeLoader):
    """SafeLoader with the float rule of YAML 1.2."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def read_documents(text: str) -> tuple[Document, ...]:
    """All non-empty documents. Raises SpecError with a line for YAML that cannot be read."""
    try:
        return tuple(_documents(text))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise SpecError("", f"not YAML: {error.problem}", line=line) from error
    except yaml.YAMLError as error:
        raise SpecError("", f"not YAML: {error}") from error


def _documents(text: str) -> Iterator[Document]:
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            assert node is not None
            lines = dict(_lines(node, ()))
            value = loader.construct_document(node)
            if value is not None:
                yield Document(value=value, lines=lines)
    finally:
        loader.dispose()


def _lines(node: yaml.Node, path: Path) -> Iterator[tuple[Path, int]]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                raise SpecError(render_path((*path, name)), "the field is given twice; keep one", line=key.start_mark.line + 1)
            seen.add(name)
            yield (*path, name), key.start_mark.line + 1
            yield from _lines(value, (*path, name))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*path, index), value.start_mark.line + 1
            yield from _lines(value, (*path, index))


def render_path(path: Path) -> str:
    """("spec", "tolerations", 0) -> spec.tolerations[0]."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
