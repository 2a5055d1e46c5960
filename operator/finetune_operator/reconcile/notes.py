"""What this process remembers of a job between two passes and the cluster does not say, or not yet. Lost with the process, at no harm."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from finetune_contract.bounds import MAX_COUNT
from finetune_operator.api.status import JobStatus
from finetune_operator.decide.facts.observed import PodView, Session

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class JobNotes:
    """Of one job uid. `refusal`: the newest that no pass has answered yet; `invalid_pod`: the same, of a pod that can never be."""

    refusal: str | None = None
    invalid_pod: str | None = None
    created: dict[int, str] = field(default_factory=dict)  # pod uids by serial, until the status shows them
    taken_serials: frozenset[int] = frozenset()  # their names belong to somebody else
    holding: frozenset[str] = frozenset()  # pods that have a node
    term: int = 0  # of jobs whose agents have obeyed a greater one than that of the lease

    def unlisted(self, status: JobStatus) -> dict[int, str]:
        """Uids of pods that the status does not show yet."""
        listed = {entry.serial for entry in status.members if entry.uid is None}
        return {serial: uid for serial, uid in self.created.items() if serial in listed}

    def term_for(self, lease_term: int, sessions: Iterable[Session], confirmed_at: datetime) -> int:
        """That of the lease, unless an agent obeyed a greater one before: terms fall when the lease is deleted or the cluster restored.

        A leader that was replaced meanwhile learns nothing: the lease was renewed after the agent spoke.
        """
        known = max(lease_term, self.term)
        newest = max((session.term for session in sessions if session.changed_at <= confirmed_at), default=0)
        if newest > known:
            log.warning("agents of a job have obeyed term %d, the lease says %d: orders carry a greater one", newest, lease_term)
            known = self.term = min(newest + 1, MAX_COUNT)
        return known

    def note_nodes(self, pods: Iterable[PodView]) -> frozenset[str]:
        """Pods that held a node at the last look and hold none now."""
        holding = frozenset(pod.uid for pod in pods if pod.node is not None and (not pod.is_over or pod.is_kept_by_others))
        freed, self.holding = self.holding - holding, holding
        return freed
