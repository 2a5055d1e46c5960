"""The port `Members` on a cluster: pods. Read from the informer's cache, created once for each serial, deleted by uid only."""

import re

from finetune_operator.api.job import FineTuneJob
from finetune_operator.decide.facts.observed import PodView
from finetune_operator.decide.facts.policy import PodDecoration
from finetune_operator.kube.cache import Entry, ObjectCache
from finetune_operator.kube.client import ApiClient, ApiError, JsonObject, Unreachable
from finetune_operator.kube.configmaps import JobConfigMaps, NameTakenByOther
from finetune_operator.kube.pod_view import parse_pod_entry
from finetune_operator.kube.pods import render_pod
from finetune_operator.kube.shape import section, text
from finetune_operator.reconcile.ports import Created, NameTaken, PodInvalid, Refused

_MUTATED = "a mutating webhook of the cluster removes them; exempt pods with the label finetune.dev/job-uid from that webhook"
_REFUSALS = {400, 403, 404, 422}  # 404: the namespace is gone
_INVALID = {400, 422}
# Somebody's policy denies with 400 or 422 as well, but policies change; the API server has no other mark for it than these words.
_POLICY = re.compile(r"^admission webhook .* denied the request|ValidatingAdmissionPolicy .* denied request")


class ClusterMembers:
    """Answers of our own writes go into the cache, so that the next pass sees them before the watch tells."""

    def __init__(self, client: ApiClient, cache: ObjectCache[PodView], config_maps: JobConfigMaps) -> None:
        self._client, self._cache, self._config_maps = client, cache, config_maps

    def observe(self, job: FineTuneJob) -> tuple[PodView, ...]:
        return self._cache.of_owner(job.metadata.namespace, job.metadata.uid)

    async def create(self, job: FineTuneJob, serial: int, decoration: PodDecoration) -> Created | NameTaken | Refused | PodInvalid:
        """Raises ApiError (an answer that says nothing about the pod) and Unreachable: the next pass finds out by AlreadyExists."""
        try:
            await self._config_maps.ensure(job)
            return await self._create_pod(job, render_pod(job, serial, decoration))
        except NameTakenByOther as error:
            return Refused(message=str(error))
        except ApiError as error:
            if error.status in _REFUSALS:
                return Refused(message=f"{error.status} {error.message}")
            raise

    async def _create_pod(self, job: FineTuneJob, pod: JsonObject) -> Created | NameTaken | Refused | PodInvalid:
        path, name, is_new = _path(job.metadata.namespace), pod["metadata"]["name"], True
        try:
            found = await self._client.request("POST", path, body=pod)
        except ApiError as error:
            if error.status in _INVALID and not _POLICY.search(error.message):
                return PodInvalid(message=f"{error.status} {error.message}")
            if error.reason != "AlreadyExists":
                raise
            found, is_new = await self._read(path, name), False
        entry = parse_pod_entry(found)
        if isinstance(entry, Entry) and (*entry.owner_key, entry.owner_uid, entry.name) == (*job.key, job.metadata.uid, name):
            self._cache.apply(entry)
            return Created(uid=entry.uid)
        if not is_new:
            return NameTaken()
        await self.delete(job, text(section(found, "metadata"), "uid"), name, 0)
        return Refused(message=f"pod {name} was made without its owner or its labels: {_MUTATED}")

    async def _read(self, path: str, name: str) -> JsonObject:
        try:
            return await self._client.request("GET", f"{path}/{name}")
        except ApiError as error:
            if error.status == 404:
                raise Unreachable(f"pod {name} existed and vanished in between") from None
            raise

    async def delete(self, job: FineTuneJob, uid: str, name: str, grace_seconds: int | None) -> None:
        """A pod that is gone, or another one of that name, is left as it is. Raises ApiError and Unreachable."""
        options: JsonObject = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        try:
            answer = await self._client.request("DELETE", f"{_path(job.metadata.namespace)}/{name}", body=options)
        except ApiError as error:
            if error.status not in {404, 409}:
                raise
            return
        if answer.get("kind") == "Pod":
            self._remember(answer)

    def _remember(self, pod: JsonObject) -> None:
        entry = parse_pod_entry(pod)
        if isinstance(entry, Entry):
            self._cache.apply(entry)


def _path(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods"
