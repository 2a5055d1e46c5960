"""The two ConfigMaps of a job: its pinned configuration (immutable) and how to reach the channel (kept up to date).

Both are owned by the job and collected with it. They hold no secret.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from finetune_contract.config import JobConfig
from finetune_operator.api.job import LABEL_JOB, LABEL_JOB_UID, FineTuneJob
from finetune_operator.kube.client import MERGE_PATCH, ApiClient, ApiError, JsonObject
from finetune_operator.kube.pods import CONFIG_KEY, channel_map_name, config_map_name, owner_reference
from finetune_operator.kube.shape import entries, section, text
from finetune_operator.times import CONFIGMAP_CHECK_SECONDS

log = logging.getLogger(__name__)


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
    """Makes them, and makes them again when somebody deleted them; a gang that is created at once asks for them once."""

    def __init__(self, client: ApiClient, *, url: str, ca_bundle: Callable[[], str], render: Callable[[FineTuneJob], JobConfig]) -> None:
        self._client, self._url, self._ca_bundle, self._render = client, url, ca_bundle, render
        self._checked: dict[str, tuple[str, float]] = {}  # by job uid: with which authority, and when

    async def ensure(self, job: FineTuneJob) -> None:
        """Both exist, are ours and name the present authority and URL. Raises NameTakenByOther, ApiError and Unreachable."""
        uid, bundle = job.metadata.uid, self._ca_bundle()
        known = self._checked.get(uid)
        if known is not None and known[0] == bundle and time.monotonic() - known[1] < CONFIGMAP_CHECK_SECONDS:
            return
        # A gang without any member yet most probably has no ConfigMap either, and who waits for it waits for each round trip.
        is_new = known is None and all(member.uid is None for member in job.status.members)
        bodies = (render_config_map(job, self._render(job)), render_channel_map(job, self._url, bundle))
        await asyncio.gather(*(self._make(job, body, is_new=is_new) for body in bodies))
        self._checked[uid] = (bundle, time.monotonic())

    async def ensure_known(self, jobs: tuple[FineTuneJob, ...]) -> None:
        """Every job whose members may start or connect again. One that cannot be helped stops no other. Raises Unreachable."""
        alive = {job.metadata.uid for job in jobs}
        self._checked = {uid: known for uid, known in self._checked.items() if uid in alive}
        for job in jobs:
            if job.status.pinned is None or job.status.is_ended or not job.status.members:
                continue
            try:
                await self.ensure(job)
            except (ApiError, NameTakenByOther) as error:
                log.warning("ConfigMaps of the job: %s", error, extra={"namespace": job.metadata.namespace, "job": job.metadata.name})

    async def _make(self, job: FineTuneJob, body: JsonObject, *, is_new: bool) -> None:
        path, name = f"/api/v1/namespaces/{job.metadata.namespace}/configmaps", body["metadata"]["name"]
        if is_new and await self._create(path, body):
            return
        found = await self._read(f"{path}/{name}")
        if found is None:
            await self._create(path, body)
            return
        if all(text(owner, "uid") != job.metadata.uid for owner in entries(section(found, "metadata"), "ownerReferences")):
            raise NameTakenByOther(f"ConfigMap {name} exists and does not belong to this job: delete it or rename the job")
        if "immutable" not in body and found.get("data") != body["data"]:
            patch = {"metadata": {"resourceVersion": text(section(found, "metadata"), "resourceVersion")}, "data": body["data"]}
            await self._client.request("PATCH", f"{path}/{name}", body=patch, content_type=MERGE_PATCH)

    async def _create(self, path: str, body: JsonObject) -> bool:
        """False if there is one of that name."""
        try:
            await self._client.request("POST", path, body=body)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            return False
        return True

    async def _read(self, path: str) -> JsonObject | None:
        try:
            return await self._client.request("GET", path)
        except ApiError as error:
            if error.status != 404:
                raise
            return None
