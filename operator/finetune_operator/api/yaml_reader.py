"""Reads YAML to what kubectl would send: JSON values only, keys as strings, anchors followed, every size bounded. It checks no field.

A key given twice is an error here; kubectl takes the last one in silence.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from finetune_operator.api.spec_error import SpecError
from finetune_operator.api.yaml_scalars import read_key, read_plain, read_tagged

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 50
MAX_NODES = 20_000  # anchors followed
_PLAIN = "plain"
_MERGE = "tag:yaml.org,2002:merge"
_STRING = "tag:yaml.org,2002:str"
_NOT_YAML = (yaml.YAMLError, ValueError, OverflowError, IndexError, AttributeError, TypeError)  # what PyYAML raises for odd bytes
Path = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True)
class Document:
    """One YAML document. `lines` gives the 1-based line of every field path."""

    value: Any
    lines: dict[Path, int]


class _Composer(yaml.SafeLoader):
    """Builds nodes only. A plain scalar has the tag `plain`; what it means is read later."""

    depth = num_nodes = 0

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode:
            return _PLAIN if implicit[0] else _STRING
        return str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        self.num_nodes += 1
        if self.depth > MAX_DEPTH or self.num_nodes > MAX_NODES:
            raise _too_much(self.depth, self.peek_event().start_mark.line + 1)  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def read_documents(text: str) -> tuple[Document, ...]:
    """All non-empty documents. Raises SpecError with a line for YAML that cannot be read."""
    if len(text) > MAX_BYTES:
        raise SpecError("", f"has more than {MAX_BYTES // 1024} KiB; no job is that large")
    try:
        return tuple(_documents(text))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise SpecError("", f"not YAML: {error.problem}", line=line) from error
    except _NOT_YAML as error:
        raise SpecError("", f"not YAML: {' '.join(str(error).split())}") from error


def _documents(text: str) -> Iterator[Document]:
    loader = _Composer(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            assert node is not None
            reading = _Reading()
            value = reading.value_of(node, ())
            if value is not None:
                yield Document(value=value, lines=reading.lines)
    finally:
        loader.dispose()


@dataclass
class _Reading:
    """Nodes of one document -> JSON values."""

    lines: dict[Path, int] = field(default_factory=dict)
    num_nodes: int = 0
    open: list[int] = field(default_factory=list)  # ids of the nodes that hold the present one

    def value_of(self, node: yaml.Node, path: Path) -> Any:
        line = node.start_mark.line + 1
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES or len(self.open) > MAX_DEPTH:
            raise _too_much(len(self.open), line)
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node, path)
        if id(node) in self.open:
            raise SpecError(render_path(path), "an anchor contains itself", line=line)
        self.open.append(id(node))
        value = self._mapping(node, path) if isinstance(node, yaml.MappingNode) else self._sequence(node, path)
        self.open.pop()
        return value

    def _sequence(self, node: yaml.Node, path: Path) -> list[Any]:
        values = []
        for index, child in enumerate(node.value):
            self.lines[(*path, index)] = child.start_mark.line + 1
            values.append(self.value_of(child, (*path, index)))
        return values

    def _mapping(self, node: yaml.Node, path: Path) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        given: set[str] = set()
        for key, child in node.value:
            line = key.start_mark.line + 1
            if key.tag == _MERGE or (key.tag == _PLAIN and key.value == "<<"):
                fields |= self._merged(child, path, line)
                continue
            name = _key(key, path, line)
            if name in given:
                raise SpecError(render_path((*path, name)), "the field is given twice; keep one", line=line)
            given.add(name)
            self.lines[(*path, name)] = line
            fields[name] = self.value_of(child, (*path, name))
        return fields

    def _merged(self, node: yaml.Node, path: Path, line: int) -> dict[str, Any]:
        """`<<: *one` or `<<: [*one, *other]`; the first of a list wins."""
        value = self.value_of(node, path)
        found = value if isinstance(value, list) else [value]
        if not all(isinstance(entry, dict) for entry in found):
            raise SpecError(render_path(path), "<< merges objects only", line=line)
        return {name: value for entry in reversed(found) for name, value in entry.items()}


def _scalar(node: yaml.ScalarNode, path: Path) -> Any:
    try:
        return read_plain(node.value) if node.tag == _PLAIN else read_tagged(node.tag, node.value)
    except ValueError as error:
        raise SpecError(render_path(path), str(error), line=node.start_mark.line + 1) from error


def _key(node: yaml.Node, path: Path, line: int) -> str:
    if not isinstance(node, yaml.ScalarNode):
        left = "; {{ .. }} belongs to a template: render it first" if isinstance(node, yaml.MappingNode) and node.flow_style else ""
        raise SpecError(render_path(path), f"a list or an object cannot be a key{left}", line=line)
    try:
        return read_key(_scalar(node, path))
    except ValueError as error:
        raise SpecError(render_path(path), str(error), line=line) from error


def _too_much(depth: int, line: int) -> SpecError:
    limit = f"{MAX_DEPTH} levels" if depth > MAX_DEPTH else f"{MAX_NODES} values, anchors followed"
    return SpecError("", f"has more than {limit}; no job is that large", line=line)


def render_path(path: Path) -> str:
    """("spec", "tolerations", 0) -> spec.tolerations[0]."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
