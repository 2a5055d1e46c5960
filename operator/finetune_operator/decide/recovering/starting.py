"""Members that have a node and never start: an image cannot be pulled, a volume is missing, or their agent reaches nobody or no store."""

from datetime import timedelta

from finetune_contract.messages import MemberPhase
from finetune_contract.reasons import STORE_AWAY
from finetune_operator.decide.facts.gang import Gang, Member
from finetune_operator.decide.facts.observed import PodPhase
from finetune_operator.times import SILENT_SECONDS, STORE_AWAY_SILENCE_SECONDS


def has_no_container_yet(gang: Gang, member: Member) -> bool:
    """It has had a node for a minute, and Kubernetes gives no reason why its container is not there."""
    pod = member.pod
    if pod is None or pod.placed_at is None or pod.phase is not PodPhase.PENDING or pod.waiting is not None or pod.is_deleting:
        return False
    return gang.now - pod.placed_at >= timedelta(seconds=SILENT_SECONDS)


def never_started(gang: Gang, member: Member) -> bool:
    """It has had a node for placement.startTimeoutSeconds and never opened its channel. Who was in a formation has started once."""
    pod = member.pod
    if pod is None or not member.is_placed or member.session is not None or member.is_ended or member.is_leaving:
        return False
    if not gang.observed.is_reconnect_over or member.serial in {other.serial for other in gang.crew}:
        return False
    limit = timedelta(seconds=gang.spec.start_timeout_seconds)
    return gang.now - (pod.placed_at or pod.created_at) >= limit


def waits_for_a_store(gang: Gang, member: Member) -> bool:
    """For placement.startTimeoutSeconds without a break, as it says itself. A job that has trained waits: its state lies there."""
    session = member.session
    if gang.status.formation is not None or session is None or not member.is_connected or session.run.phase is not MemberPhase.PREPARING:
        return False
    since, told_at = session.run.store_away_since, session.run.store_away_at
    if since is None or told_at is None:
        return False
    is_still_away = gang.now - told_at < timedelta(seconds=STORE_AWAY_SILENCE_SECONDS)
    limit = timedelta(seconds=gang.spec.start_timeout_seconds)
    return is_still_away and gang.now - since >= limit


def why_not_started(gang: Gang, member: Member) -> str:
    """For the user, with what to look at."""
    assert member.pod is not None
    seconds = gang.spec.start_timeout_seconds
    if member.session is not None:
        told = [words for reason, words in member.session.run.warnings if reason == STORE_AWAY]
        words = told[-1] if told else "a store does not answer"
    elif member.pod.waiting is not None:
        words = member.pod.waiting
    elif member.pod.phase is PodPhase.RUNNING:
        words = "it is running but never connected to the operator; check NetworkPolicies between it and the Service finetune-channel"
    else:
        words = f"its container was never created; kubectl describe pod {member.name} says which volume, Secret or ConfigMap is missing"
    return f"it did not start within {seconds} s (placement.startTimeoutSeconds): {words}"
