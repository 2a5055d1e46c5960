"""What the API server would refuse of the pod that is made from a job, told before there is a job.

Source: ValidatePodSpec of k8s.io/kubernetes/pkg/apis/core/validation, as far as a job can reach it.
"""

from collections.abc import Iterator, Mapping
from fractions import Fraction

from finetune_operator.api.quantities import parse_quantity
from finetune_operator.api.spec import FineTuneJobSpec, Quantity, ResourcesSpec, TolerationSpec
from finetune_operator.api.spec_error import SpecError
from finetune_operator.api.syntax import annotation_faults, is_qualified_name, key_faults, label_faults

_NATIVE = ("cpu", "memory", "ephemeral-storage")
_HUGE_PAGES = "hugepages-"
_GPUS = ("nvidia.com/gpu", "amd.com/gpu")  # whole devices: one process for each


def pod_labels_are_labels(spec: FineTuneJobSpec, _is_local: bool) -> Iterator[SpecError]:
    placement = spec.placement
    for path, faults in (
        ("labels", label_faults(placement.labels)),
        ("annotations", annotation_faults(placement.annotations)),
        ("nodeSelector", label_faults(placement.node_selector)),
    ):
        for key, what in faults:
            yield SpecError(f"spec.placement.{path}.{key}" if key else f"spec.placement.{path}", what)


def tolerations_are_those_of_a_pod(spec: FineTuneJobSpec, _is_local: bool) -> Iterator[SpecError]:
    for index, toleration in enumerate(spec.placement.tolerations):
        for name, what in _toleration_faults(toleration):
            yield SpecError(f"spec.placement.tolerations[{index}].{name}", what)


def _toleration_faults(toleration: TolerationSpec) -> Iterator[tuple[str, str]]:
    if toleration.key is None and toleration.operator != "Exists":
        yield "operator", "has to be Exists when there is no key: it tolerates every taint"
    for _, what in key_faults({toleration.key: ""} if toleration.key is not None else {}):
        yield "key", f"{toleration.key!r} {what}"
    if toleration.operator == "Exists" and toleration.value:
        yield "value", "has to be absent when operator is Exists"
    if toleration.toleration_seconds is not None and toleration.effect != "NoExecute":
        yield "effect", "has to be NoExecute when tolerationSeconds is set"


def a_pod_can_ask_for_its_resources(spec: FineTuneJobSpec, _is_local: bool) -> Iterator[SpecError]:
    resources = spec.resources
    for section, entries in (("requests", resources.requests), ("limits", resources.limits)):
        for name, value in entries.items():
            for what in _resource_faults(name, value):
                yield SpecError(f"spec.resources.{section}.{name}", what)
    requests, limits = _amounts(_requests_of_pod(resources)), _amounts(resources.limits)
    for name, amount in requests.items():
        path = f"spec.resources.requests.{name}"
        if name in limits and amount > limits[name]:
            asked = resources.requests.get(name, _DEFAULTS.get(name))
            yield SpecError(path, f"{asked} is more than the limit {resources.limits[name]}; lower it or raise the limit")
        elif _is_whole_only(name) and amount != limits.get(name):
            yield SpecError(path, f"needs the same amount in spec.resources.limits.{name}; Kubernetes does not share it")


def a_process_has_a_gpu(spec: FineTuneJobSpec, _is_local: bool) -> Iterator[SpecError]:
    processes = spec.resources.processes_per_node
    for name, amount in _amounts(spec.resources.limits).items():
        if name in _GPUS and 0 < amount < processes:
            what = f"is {processes}, but a pod has {amount} {name}; use one process for each GPU"
            yield SpecError("spec.resources.processesPerNode", what)


def idle_gpus(spec: FineTuneJobSpec) -> Iterator[str]:
    processes = spec.resources.processes_per_node
    for name, amount in _amounts(spec.resources.limits).items():
        if name in _GPUS and amount > processes:
            yield f"spec.resources.processesPerNode: only {processes} of {amount} {name} will be used; raise it to {amount}"


def tiny_memory(spec: FineTuneJobSpec) -> Iterator[str]:
    for section, entries in (("requests", spec.resources.requests), ("limits", spec.resources.limits)):
        amount = _amounts(entries).get("memory")
        if amount is not None and amount < 2**20:
            yield f"spec.resources.{section}.memory: {entries['memory']} is less than 1 MiB; write 128Gi for gibibytes (m is thousandths)"


_DOMAIN_OF_KUBERNETES = "kubernetes.io/"
_DEFAULTS: Mapping[str, Quantity] = ResourcesSpec().requests


def _requests_of_pod(resources: ResourcesSpec) -> dict[str, Quantity]:
    """As render_pod makes them: cpu and memory are always requested, a limit alone is a request too."""
    return {**resources.limits, **{name: value for name, value in _DEFAULTS.items() if name not in resources.limits}, **resources.requests}


def _amounts(entries: Mapping[str, Quantity]) -> dict[str, Fraction]:
    found = {}
    for name, value in entries.items():
        try:
            found[name] = parse_quantity(str(value))
        except ValueError:
            continue  # told by its field
    return found


def _resource_faults(name: str, value: Quantity) -> Iterator[str]:
    if name.startswith(_HUGE_PAGES):
        yield from _huge_page_faults(name, value)
    elif "/" not in name and name not in _NATIVE:
        yield f"is not a resource of a container; known here: {', '.join(_NATIVE)}, hugepages-SIZE, and DOMAIN/NAME such as nvidia.com/gpu"
    elif "/" in name and not (_is_extended(name) or _is_of_kubernetes(name)):
        yield "is not a resource; wanted DOMAIN/NAME, such as nvidia.com/gpu"
    elif _is_whole_only(name) and _amounts({name: value}).get(name, Fraction(0)).denominator != 1:
        yield f"got {value}, wanted a whole number"


def _huge_page_faults(name: str, value: Quantity) -> Iterator[str]:
    size, amount = (_amounts({"": text}).get("", Fraction(0)) for text in (name.removeprefix(_HUGE_PAGES), value))
    if size == 0:
        yield "is not a resource; wanted hugepages-SIZE, such as hugepages-2Mi"
    elif amount == 0 or amount % size:
        yield f"got {value}, wanted a multiple of {name.removeprefix(_HUGE_PAGES)}"


def _is_extended(name: str) -> bool:
    """A quota counts it as requests.NAME, which has to be a name too."""
    return _DOMAIN_OF_KUBERNETES not in name and not name.startswith("requests.") and is_qualified_name(f"requests.{name}")


def _is_of_kubernetes(name: str) -> bool:
    """A later Kubernetes may have it: the API server takes any, also in parts, and a node that lacks it takes no pod."""
    return _DOMAIN_OF_KUBERNETES in name and is_qualified_name(name)


def _is_whole_only(name: str) -> bool:
    return name.startswith(_HUGE_PAGES) or (_is_extended(name) and "/" in name)
