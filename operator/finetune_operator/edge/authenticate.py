"""Decides whom a member's token speaks for: a valid token of a pod that we know as a member of a job."""

from finetune_operator.coordinator.server import MemberIdentity, TokenRefused
from finetune_operator.decide.observed import PodView
from finetune_operator.kube.cache import ObjectCache
from finetune_operator.kube.client import ApiClient, ApiError, Unreachable
from finetune_operator.kube.pod_view import parse_pod_entry
from finetune_operator.kube.tokens import PodIdentity, TokenInvalid, TokenVerifier


class PodAuthenticator:
    """Called for every connection of an agent; only a pod that the informer has not shown yet costs a request."""

    def __init__(self, client: ApiClient, verifier: TokenVerifier, cache: ObjectCache[PodView]) -> None:
        self._client, self._verifier, self._cache = client, verifier, cache

    async def __call__(self, token: str) -> MemberIdentity:
        """Raises TokenRefused."""
        try:
            pod = await self._verifier.identify(token)
        except TokenInvalid as error:
            raise TokenRefused(f"token refused: {error}") from None
        entry = self._cache.get(pod.uid)
        if entry is not None and (entry.namespace, entry.name) == (pod.namespace, pod.name):
            return MemberIdentity(member_uid=pod.uid, job_uid=entry.owner_uid)
        return await self._read_member(pod)

    async def _read_member(self, pod: PodIdentity) -> MemberIdentity:
        try:
            found = await self._client.request("GET", f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}")
        except (ApiError, Unreachable):
            raise TokenRefused(f"pod {pod.namespace}/{pod.name} is not known") from None
        entry = parse_pod_entry(found)
        if entry is None or entry.uid != pod.uid:
            raise TokenRefused(f"pod {pod.namespace}/{pod.name} is no member of a job")
        self._cache.apply(entry)
        return MemberIdentity(member_uid=entry.uid, job_uid=entry.owner_uid)
