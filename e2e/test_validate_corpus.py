"""`finetune validate` and the API server say the same of every job file; the pod of every good one can be created."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.api.test_validate_corpus import CORPUS, verdict

from e2e.product import Kubectl, Team
from finetune_contract.config import CONTRACT_VERSION
from finetune_contract.values import changed
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.status import Pinned
from finetune_operator.api.yaml_reader import read_documents
from finetune_operator.cli import check_file
from finetune_operator.kube.pods import render_pod

FILES = sorted(CORPUS.glob("*.yaml"))
STRICTER = {"given-twice"}  # kubectl drops the first of two keys before the API server could see it
ABSENT_OBJECTS = ("no PriorityClass with name", "RuntimeClass", "serviceaccount")  # names of objects that this cluster does not have


def is_taken(kubectl: Kubectl, manifest: str) -> tuple[bool, str]:
    answer = kubectl.run("apply", "--dry-run=server", "-f", "-", stdin=manifest, check=False)
    return answer.returncode == 0, answer.stdout + answer.stderr


def pod_of(file: Path, kubectl: Kubectl) -> str:
    """The first member as the operator would make it."""
    document: dict[str, Any] = read_documents(file.read_text(encoding="utf-8-sig"))[0].value
    metadata = {"name": "corpus", "namespace": kubectl.namespace, "uid": "0a1b2c3d-1111-2222-3333-444455556666"}
    job = FineTuneJob.model_validate({"metadata": metadata, "spec": without_absent(document["spec"])})
    pinned = Pinned(image=job.spec.image or "trainer", contract_version=CONTRACT_VERSION, admitted_at=datetime(2026, 1, 1, tzinfo=UTC))
    return json.dumps(render_pod(changed(job, status=changed(job.status, pinned=pinned)), 1))


def without_absent(spec: dict[str, Any]) -> dict[str, Any]:
    from finetune_operator.api.rules import without_nulls

    found: dict[str, Any] = without_nulls(spec)
    return found


def test_validate_and_the_api_server_agree_on_every_file(team: Team) -> None:
    apart = []
    for file in FILES:
        is_good = not any(is_error for is_error, _ in check_file(file, is_local=False))
        taken, words = is_taken(team.kubectl, file.read_text(encoding="utf-8"))
        if taken != is_good and file.stem not in STRICTER:
            apart.append(f"{file.stem}: validate {'accepts' if is_good else 'refuses'}, the API server says: {words.strip()[:300]}")
    print(f"{len(FILES)} files, {len(apart)} disagreements")
    assert not apart, "\n".join(apart)


@pytest.mark.parametrize("kind", ["accepted", "refused by the pod"])
def test_the_pods_are_taken_or_refused_as_the_files_say(kind: str, team: Team) -> None:
    """Without the webhook in between: what is refused for the sake of the pod would not be a pod."""
    files = [file for file in FILES if verdict(file)[0] == kind]
    apart = []
    for file in files:
        taken, words = is_taken(team.kubectl, pod_of(file, team.kubectl))
        if taken != (kind == "accepted") and not any(absent in words for absent in ABSENT_OBJECTS):
            apart.append(f"{file.stem}: {words.strip()[:300]}")
    print(f"{len(files)} pods {kind}, {len(apart)} otherwise")
    assert not apart, "\n".join(apart)
