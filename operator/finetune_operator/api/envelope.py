"""What stands around `spec`: apiVersion, kind and metadata, judged as the API server does. `status` is never read from a file."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from finetune_operator.api.job import API_VERSION, KIND
from finetune_operator.api.spec_error import SpecError
from finetune_operator.api.syntax import annotation_faults, is_subdomain, label_faults

MAX_NAME_CHARS = 45
_FIELDS = {"apiVersion", "kind", "metadata", "spec", "status"}
_METADATA_FIELDS = {
    *("name", "generateName", "namespace", "selfLink", "uid", "resourceVersion", "generation", "creationTimestamp"),
    *("deletionTimestamp", "deletionGracePeriodSeconds", "labels", "annotations", "ownerReferences", "finalizers", "managedFields"),
}
_Faults = Callable[[Mapping[str, str]], Iterator[tuple[str, str]]]


def envelope_errors(job: Any) -> Iterator[SpecError]:
    """`job`: any JSON value."""
    if not isinstance(job, dict):
        yield SpecError("", f"wanted a {KIND} object, got {shown(job)}")
        return
    if job.get("apiVersion") != API_VERSION:
        yield SpecError("apiVersion", f"got {shown(job.get('apiVersion'))}, wanted {API_VERSION!r}")
    if job.get("kind") != KIND:
        yield SpecError("kind", f"got {shown(job.get('kind'))}, wanted {KIND!r}")
    for name in sorted(set(job) - _FIELDS):
        yield SpecError(str(name), f"unknown field; known here: {', '.join(sorted(_FIELDS))}")
    metadata = job.get("metadata")
    if isinstance(metadata, dict):
        yield from _metadata_errors(metadata)
    else:
        yield SpecError("metadata.name", "is missing; give the job a name")
    if not isinstance(job.get("spec"), dict):
        yield SpecError("spec", "is missing; see `finetune validate --help`")


def shown(value: Any) -> str:
    """A value in YAML's words."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return f"the string {value!r}" if isinstance(value, str) else str(value)


def _metadata_errors(metadata: Mapping[str, Any]) -> Iterator[SpecError]:
    for key in sorted(set(metadata) - _METADATA_FIELDS):
        yield SpecError(f"metadata.{key}", "unknown field of metadata")
    name, namespace = metadata.get("name"), metadata.get("namespace")
    if not isinstance(name, str) or not name:
        yield SpecError("metadata.name", "is missing; give the job a name" if not name else f"got {shown(name)}, wanted a string")
    elif len(name) > MAX_NAME_CHARS:
        why = f"has {len(name)} characters, at most {MAX_NAME_CHARS} are allowed (pod names are made from it); choose a shorter name"
        yield SpecError("metadata.name", why)
    elif not is_subdomain(name):
        yield SpecError("metadata.name", f"got {name!r}, wanted lower case letters, digits, '-' and '.', a letter or digit at both ends")
    if namespace is not None and not _is_namespace(namespace):
        yield SpecError("metadata.namespace", f"got {shown(namespace)}, wanted a name of lower case letters, digits and '-', at most 63")
    yield from _map_errors("metadata.labels", metadata.get("labels"), label_faults)
    yield from _map_errors("metadata.annotations", metadata.get("annotations"), annotation_faults)


def _is_namespace(name: Any) -> bool:
    return isinstance(name, str) and (not name or (len(name) <= 63 and "." not in name and is_subdomain(name)))


def _map_errors(path: str, entries: Any, faults: _Faults) -> Iterator[SpecError]:
    """A null is an empty string here, as encoding/json reads it."""
    if entries is None:
        return
    if not isinstance(entries, dict):
        yield SpecError(path, f"got {shown(entries)}, wanted an object")
        return
    bad = [(key, value) for key, value in entries.items() if value is not None and not isinstance(value, str)]
    for key, value in bad:
        yield SpecError(f"{path}.{key}", f"got {shown(value)}, wanted a string; put it in quotes")
    if not bad:
        for key, what in faults({key: value or "" for key, value in entries.items()}):
            yield SpecError(f"{path}.{key}" if key else path, what)
