"""`finetune rows`: the rows of a job as the model will see them, on this machine, before any GPU. Light to import.

Exit codes: 0 shown, 1 the job would fail on its rows (or they cannot be had), 2 the YAML is invalid.
"""

import argparse
import copy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finetune_contract.places import Scheme, parse_place
from finetune_contract.values import changed
from finetune_operator.api.check_document import FileRefused, error_lines, read_file, shown_name
from finetune_operator.api.job import KIND, FineTuneJob
from finetune_operator.api.render_config import render_config
from finetune_operator.api.rules import parse_job
from finetune_operator.api.yaml_reader import Document
from finetune_operator.local.arguments import whole_number

SHOWN, FAILED, INVALID = 0, 1, 2
_MAX_SHOWN = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="YAML with one FineTuneJob, and the ConfigMap of its rows if it has one")
    parser.add_argument("--rows", type=whole_number(0, _MAX_SHOWN), default=3, metavar="N", help="how many rows to show (default: 3)")
    parser.add_argument("--model", type=Path, metavar="DIR", help="the model's folder on this machine, in place of spec.model.uri")
    parser.add_argument("--data", type=Path, metavar="PATH", help="the rows on this machine, in place of spec.dataset.uri")
    parser.add_argument("--plain", action="store_true", help="mark tokens that carry loss by [[ ]] instead of colour")


def rows_from_arguments(arguments: argparse.Namespace, environment: Mapping[str, str]) -> int:
    """Read, check, fetch what is needed, show."""
    with tempfile.TemporaryDirectory(prefix="finetune-rows-") as scratch:
        folder = Path(scratch)
        try:
            job = read_job(arguments.file, folder, model=arguments.model, data=arguments.data)
        except FileRefused as refusal:
            sys.stderr.write(f"{refusal}\n")
            return INVALID
        config = folder / "config.json"
        config.write_text(render_config(job).model_dump_json())
        found = subprocess.run(_module("finetune_agent.preparing.rows_inputs", config, folder), stdout=subprocess.PIPE, check=False)
        if found.returncode:
            return FAILED
        inputs = folder / "inputs.json"
        inputs.write_bytes(found.stdout)
        is_coloured = sys.stdout.isatty() and not arguments.plain and not environment.get("NO_COLOR")
        command = _module("finetune_trainer.show_rows", config, inputs, "--rows", arguments.rows, *(["--colour"] if is_coloured else []))
        sys.stdout.flush()
        offline = {**environment, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}  # what is needed lies here by now
        return SHOWN if subprocess.run(command, env=offline, check=False).returncode == 0 else FAILED


def read_job(file: Path, scratch: Path, *, model: Path | None, data: Path | None) -> FineTuneJob:
    """The only job of the file, with places that this machine can read. Raises FileRefused with all lines for the user."""
    documents = read_file(file)
    jobs = [document for document in documents if _kind(document) == KIND] or [documents[0]]
    if len(jobs) > 1:
        raise FileRefused(f"{shown_name(file)}: holds {len(jobs)} jobs; wanted one FineTuneJob")
    errors = tuple(error_lines(file, jobs[0], is_local=False))
    if errors and any(error_lines(file, jobs[0], is_local=True)):
        raise FileRefused("\n".join(errors))
    value = copy.deepcopy(jobs[0].value)
    spec = value["spec"]
    if model is not None:
        spec["model"]["uri"] = f"file://{model.absolute()}"
    if data is not None:
        spec["dataset"]["uri"] = f"file://{data.absolute()}"
    for name in ("uri", "evalUri"):
        if isinstance(spec["dataset"].get(name), str):
            spec["dataset"][name] = _out_of_config_map(spec["dataset"][name], documents, scratch / f"{name}.rows")
    parsed = parse_job(value)
    dataset = parsed.spec.dataset
    for field, uri, advice in (
        ("spec.model.uri", parsed.spec.model.uri, "pass a copy with --model DIR"),
        ("spec.dataset.uri", dataset.uri, "pass a copy with --data PATH"),
        ("spec.dataset.evalUri", dataset.eval_uri, "remove the field from a copy of the job"),
    ):
        if uri is not None and parse_place(uri).scheme in {Scheme.PVC, Scheme.CONFIGMAP}:
            raise FileRefused(f"{shown_name(file)}: {field}: {uri} is in the cluster and cannot be read from this machine; {advice}")
    # What the API server would give it: a template may show the day.
    return changed(parsed, metadata=changed(parsed.metadata, creation_timestamp=datetime.now(UTC)))


def _out_of_config_map(uri: str, documents: tuple[Document, ...], target: Path) -> str:
    """Rows in a ConfigMap of the same YAML become a file."""
    place = parse_place(uri)
    if place.scheme is not Scheme.CONFIGMAP:
        return uri
    for document in documents:
        value = document.value
        metadata, data = (value.get(part) for part in ("metadata", "data")) if _kind(document) == "ConfigMap" else (None, None)
        if (
            isinstance(metadata, dict)
            and isinstance(data, dict)
            and metadata.get("name") == place.container
            and isinstance(data.get(place.path), str)
        ):
            target.write_text(data[place.path])
            return f"file://{target}"
    return uri


def _kind(document: Document) -> Any:
    return document.value.get("kind") if isinstance(document.value, dict) else None


def _module(name: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", name, *map(str, arguments)]
