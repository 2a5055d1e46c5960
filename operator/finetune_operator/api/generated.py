"""The files that are generated from the resource's models."""

from finetune_operator.api.crd import render_crd
from finetune_operator.api.reference import render_reference


def generated_files() -> dict[str, str]:
    """Path in the repository -> content."""
    crd = render_crd()
    return {
        "crds/finetunejobs.yaml": crd,
        "helm/finetune-operator/files/finetunejobs.yaml": crd,
        "docs/reference/finetunejob.md": render_reference(),
    }
