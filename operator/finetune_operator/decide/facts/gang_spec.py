"""What a gang is asked to be, and the run in it: all that the rules read of a spec. Made out of a job here, and nowhere else.

Rules read these values and never the job's own spec, so that a gang that is not one job's can be asked for in the same words.
"""

from contextlib import suppress
from dataclasses import dataclass

from finetune_contract.places import Scheme, parse_place
from finetune_operator.api.spec import FineTuneJobSpec

_MOUNTED = {Scheme.PVC: "PersistentVolumeClaim", Scheme.CONFIGMAP: "ConfigMap"}


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """What one run of training is made from, and where its adapter goes."""

    model_uri: str
    dataset_uri: str
    output_uri: str
    output_if_exists: str
    adapter_rank: int
    max_sequence_length: int
    has_gradient_checkpointing: bool


@dataclass(frozen=True, kw_only=True)
class GangSpec:
    """How many members, of which kind, how urgent they are and how long they are waited for."""

    min_nodes: int
    max_nodes: int
    num_spares: int
    processes_per_node: int
    image: str | None  # None: the operator's own
    mounted: tuple[str, ...]  # objects of the namespace without which no container is created, as "Secret NAME", sorted
    priority: int
    is_suspended: bool
    elastic_wait_seconds: float
    placement_timeout_seconds: int
    start_timeout_seconds: int
    grace_seconds: int
    active_deadline_seconds: int | None
    ttl_seconds: int | None  # of the pods of a gang that has ended
    max_crashes_without_progress: int
    run: RunSpec


def gang_spec(spec: FineTuneJobSpec) -> GangSpec:
    """The gang that a job asks for: one run, and members for it alone."""
    nodes, training = spec.resources.nodes, spec.training
    return GangSpec(
        min_nodes=nodes.min,
        max_nodes=nodes.max,
        num_spares=spec.resources.spares,
        processes_per_node=spec.resources.processes_per_node,
        image=spec.image,
        mounted=_mounted(spec),
        priority=spec.priority,
        is_suspended=spec.suspend,
        elastic_wait_seconds=nodes.elastic_wait_seconds,
        placement_timeout_seconds=spec.placement.timeout_seconds,
        start_timeout_seconds=spec.placement.start_timeout_seconds,
        grace_seconds=spec.termination_grace_period_seconds,
        active_deadline_seconds=spec.active_deadline_seconds,
        ttl_seconds=spec.ttl_seconds_after_finished,
        max_crashes_without_progress=spec.restart_policy.max_crashes_without_progress,
        run=RunSpec(
            model_uri=spec.model.uri,
            dataset_uri=spec.dataset.uri,
            output_uri=spec.output.uri,
            output_if_exists=spec.output.if_exists,
            adapter_rank=spec.adapter.rank,
            max_sequence_length=training.max_sequence_length,
            has_gradient_checkpointing=training.gradient_checkpointing,
        ),
    )


def _mounted(spec: FineTuneJobSpec) -> tuple[str, ...]:
    names = {f"Secret {spec.storage.secret_name}"} if spec.storage.secret_name else set()
    for uri in (spec.model.uri, spec.dataset.uri, spec.dataset.eval_uri, spec.checkpoint.uri, spec.output.uri):
        with suppress(ValueError):
            place = parse_place(uri or "")
            if place.scheme in _MOUNTED:
                names.add(f"{_MOUNTED[place.scheme]} {place.container}")
    return tuple(sorted(names))
