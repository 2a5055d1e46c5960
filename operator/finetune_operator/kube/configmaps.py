"""The two ConfigMaps of a job: its pinned configuration (immutable) and how to reach the channel (kept up to date).

Both are owned by the job and collected with it. They hold no secret.
"""

from collections.abc import Callable

from finetune_contract.config import JobConfig
from finetune_operator.api.job import LABEL_JOB, LABEL_JOB_UID, FineTuneJob
from finetune_operator.kube.client import MERGE_PATCH, ApiClient, ApiError, JsonObject
from finetune_operator.kube.pods import CONFIG_KEY, channel_map_name, config_map_name, owner_reference


class NameTakenByOther(Exception):
    """A ConfigMap of that name exists and is not ours."""


def render_config_map(job: FineTuneJob, config: JobConfig) -> JsonObject:
    return {**_envelope(job, config_map_name(job)), "immutable": True, "data": {CONFIG_KEY: config.model_dump_json()}}


def render_channel_map(job: FineTuneJob, url: str, ca_bundle: str) -> JsonObject:
    return {**_envelope(job, channel_map_name(job)), "data": {"url": url, "ca.crt": ca_bundle}}


def _envelope(job: FineTuneJob, name: str) -> JsonObject:
    metadata = {
        "name": name,
        "namespace": job.metadata.namespace,
        "labels": {LABEL_JOB: job.metadata.name, LABEL_JOB_UID: job.metadata.uid},
        "ownerReferences": [owner_reference(job)],
    }
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


class JobConfigMaps:
    """Remembers what was written, so that a job costs two requests in its life and one for each change of the channel."""

    def __init__(self, client: ApiClient, *, url: str, ca_bundle: Callable[[], str], render: Callable[[FineTuneJob], JobConfig]) -> None:
        self._client, self._url, self._ca_bundle, self._render = client, url, ca_bundle, render
        self._configured: set[str] = set()
        self._channels: dict[str, str] = {}

    async def ensure(self, job: FineTuneJob) -> None:
        """Both exist and are ours afterwards. Raises NameTakenByOther, ApiError and Unreachable."""
        uid = job.metadata.uid
        if uid not in self._configured:
            await self._create(job, render_config_map(job, self._render(job)))
            self._configured.add(uid)
        await self.refresh(job)

    async def refresh(self, job: FineTuneJob) -> None:
        """Write the channel's ConfigMap if authority or URL changed since; the configuration is never touched."""
        uid, bundle = job.metadata.uid, self._ca_bundle()
        if self._channels.get(uid) != bundle:
            await self._create(job, render_channel_map(job, self._url, bundle))
            self._channels[uid] = bundle

    async def refresh_known(self, jobs: tuple[FineTuneJob, ...]) -> None:
        """After a change of the authority: every job whose members may connect again. Forgets jobs that are gone."""
        alive = {job.metadata.uid for job in jobs}
        self._configured &= alive
        self._channels = {uid: bundle for uid, bundle in self._channels.items() if uid in alive}
        for job in jobs:
            if job.status.pinned is not None and not job.status.is_ended:
                await self.refresh(job)

    async def _create(self, job: FineTuneJob, body: JsonObject) -> None:
        path = f"/api/v1/namespaces/{job.metadata.namespace}/configmaps"
        try:
            await self._client.request("POST", path, body=body)
        except ApiError as error:
            if error.status != 409 or error.reason != "AlreadyExists":
                raise
        else:
            return
        name = body["metadata"]["name"]
        found = await self._client.request("GET", f"{path}/{name}")
        if not any(owner["uid"] == job.metadata.uid for owner in found["metadata"].get("ownerReferences") or []):
            raise NameTakenByOther(f"ConfigMap {name} exists and does not belong to this job: delete it or rename the job")
        if "immutable" not in body and found.get("data") != body["data"]:
            patch = {"metadata": {"resourceVersion": found["metadata"]["resourceVersion"]}, "data": body["data"]}
            await self._client.request("PATCH", f"{path}/{name}", body=patch, content_type=MERGE_PATCH)
