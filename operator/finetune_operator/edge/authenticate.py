"""Decides whom a member's token speaks for: a valid token of a pod that a job has noted as its member and that has not ended."""

from collections.abc import Callable

from finetune_operator.coordinator.identity import MemberIdentity, TokenRefused
from finetune_operator.decide.facts.observed import PodView
from finetune_operator.kube.cache import Entry, ObjectCache
from finetune_operator.kube.client import ApiClient, ApiError, Unreachable
from finetune_operator.kube.informer import Strangers
from finetune_operator.kube.pod_view import parse_pod_entry
from finetune_operator.kube.tokens import PodIdentity, TokenInvalid, TokenVerifier
from finetune_operator.reconcile.ports import Key


class PodAuthenticator:
    """Called for every connection of an agent; only a pod that the informer has not shown yet costs a request.

    `is_member(key, job_uid, pod_uid)` says whether the job of that name and uid has noted the pod.
    """

    def __init__(
        self,
        client: ApiClient,
        verifier: TokenVerifier,
        cache: ObjectCache[PodView],
        *,
        is_member: Callable[[Key, str, str], bool],
        strangers: Strangers,
    ) -> None:
        self._client, self._verifier, self._cache = client, verifier, cache
        self._is_member, self._strangers = is_member, strangers

    async def __call__(self, token: str) -> MemberIdentity:
        """Raises TokenRefused."""
        try:
            pod = await self._verifier.identify(token)
        except TokenInvalid as error:
            raise TokenRefused(f"token refused: {error}") from None
        entry = self._cache.get(pod.uid)
        if entry is not None and (entry.namespace, entry.name) == (pod.namespace, pod.name):
            return self._admit(entry)
        return self._admit(await self._read_pod(pod))

    def _admit(self, entry: Entry[PodView]) -> MemberIdentity:
        where = f"pod {entry.namespace}/{entry.name}"
        if entry.value.is_over:
            self._strangers.record_foreign_pod("ended")
            raise TokenRefused(f"{where} has ended")
        if not self._is_member(entry.owner_key, entry.owner_uid, entry.uid):
            self._strangers.record_foreign_pod("not_listed")
            raise TokenRefused(f"{where} is no member that its job has asked for")
        return MemberIdentity(member_uid=entry.uid, job_uid=entry.owner_uid, addresses=entry.value.addresses)

    async def _read_pod(self, pod: PodIdentity) -> Entry[PodView]:
        try:
            found = await self._client.request("GET", f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}")
        except (ApiError, Unreachable):
            raise TokenRefused(f"pod {pod.namespace}/{pod.name} is not known") from None
        entry = parse_pod_entry(found)
        if not isinstance(entry, Entry) or (entry.namespace, entry.name, entry.uid) != (pod.namespace, pod.name, pod.uid):
            self._strangers.record_foreign_pod("not_controlled")
            raise TokenRefused(f"pod {pod.namespace}/{pod.name} is no member of a job")
        self._cache.apply(entry)
        return entry
