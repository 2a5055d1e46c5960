"""How great `spec.priority` may be: a policy of the platform, for all namespaces and for some of them by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from finetune_operator.api.job import FineTuneJob
from finetune_operator.decide.facts.observed import Remark

GREATEST_PRIORITY = 1_000_000


@dataclass(frozen=True, kw_only=True)
class PriorityCaps:
    """A job above the cap of its namespace is placed as if it had asked for the cap."""

    everywhere: int = GREATEST_PRIORITY
    by_namespace: Mapping[str, int] = field(default_factory=dict)

    def of(self, job: FineTuneJob) -> int:
        """The priority that counts."""
        return min(job.spec.priority, self.by_namespace.get(job.metadata.namespace, self.everywhere))

    def remarks(self, job: FineTuneJob) -> tuple[Remark, ...]:
        counted = self.of(job)
        if counted == job.spec.priority:
            return ()
        words = f"spec.priority is {job.spec.priority}; the cluster's policy allows {counted} in this namespace, which is what counts"
        return (Remark(reason="PriorityCapped", message=words),)


NO_CAPS = PriorityCaps()


def parse_caps(text: str) -> PriorityCaps:
    """`1000,team-a=5000`: one number for all, then others by namespace. Raises ValueError."""
    everywhere, by_namespace = GREATEST_PRIORITY, {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, is_named, number = part.rpartition("=")
        if is_named and not name.strip():
            raise ValueError(part)
        if is_named:
            by_namespace[name.strip()] = int(number)
        else:
            everywhere = int(number)
    return PriorityCaps(everywhere=everywhere, by_namespace=by_namespace)
