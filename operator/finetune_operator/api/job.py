"""A FineTuneJob as read from the API server or a file: identity, spec, status. Parsed at the edge, frozen from there on."""

from datetime import datetime

from finetune_operator.api.spec import FineTuneJobSpec
from finetune_operator.api.status import JobStatus, StatusValue

GROUP = "finetune.dev"
VERSION = "v1alpha1"
KIND = "FineTuneJob"
PLURAL = "finetunejobs"
API_VERSION = f"{GROUP}/{VERSION}"
LABEL_JOB = f"{GROUP}/job"  # name of the job
LABEL_JOB_UID = f"{GROUP}/job-uid"
LABEL_SERIAL = f"{GROUP}/serial"


class Metadata(StatusValue):
    """The part of metav1.ObjectMeta that we read."""

    name: str
    namespace: str = "default"
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None


class FineTuneJob(StatusValue):
    """The resource. `key` names it in the queue."""

    metadata: Metadata
    spec: FineTuneJobSpec
    status: JobStatus = JobStatus()

    @property
    def key(self) -> tuple[str, str]:
        return (self.metadata.namespace, self.metadata.name)

    def member_name(self, serial: int) -> str:
        """`<job>-<4 characters of the uid>-<serial>`; never reused, because serials only grow."""
        return f"{self.metadata.name}-{self.metadata.uid[:4]}-{serial}"
