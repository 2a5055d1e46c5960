"""Renders one member as a bare Pod, from the job alone: Pod Security "restricted", no API access, everything in typed fields.

It reads no cluster state; the image is the one that was pinned at admission. The policy of placement adds its decoration.
"""

from typing import Any

from finetune_contract.places import CONFIGMAP_MOUNT_ROOT, PVC_MOUNT_ROOT, Scheme, parse_place
from finetune_operator.api.job import API_VERSION, KIND, LABEL_JOB, LABEL_JOB_UID, LABEL_SERIAL, FineTuneJob
from finetune_operator.api.spec import PlacementSpec, ResourcesSpec
from finetune_operator.decide.facts.policy import UNDECORATED, PodDecoration
from finetune_operator.kube.tokens import AUDIENCE
from finetune_operator.times import MEMBER_TOKEN_SECONDS, NODE_LOSS_SECONDS

JsonObject = dict[str, Any]

CONTAINER = "agent"
CONFIG_KEY = "config.json"
CONFIG_DIR = "/etc/finetune/config"
CHANNEL_DIR = "/etc/finetune/channel"
CREDENTIALS_DIR = "/etc/finetune/credentials"
TRACKING_DIR = "/etc/finetune/tracking"
TOKEN_DIR = "/var/run/finetune"
STATE_DIR = "/state"
WORK_DIR = "/work"
TERMINATION_LOG = "/dev/termination-log"
FS_GROUP = 1000


def config_map_name(job: FineTuneJob) -> str:
    return f"{job.metadata.name}-{job.metadata.uid[:8]}"


def channel_map_name(job: FineTuneJob) -> str:
    return f"{config_map_name(job)}-channel"


def owner_reference(job: FineTuneJob) -> JsonObject:
    """Children are collected with the job, and never hold up its deletion."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": job.metadata.name,
        "uid": job.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def render_pod(job: FineTuneJob, serial: int, decoration: PodDecoration = UNDECORATED) -> JsonObject:
    """The member of this serial. The job must be admitted: its image is pinned in the status."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _metadata(job, serial, decoration),
        "spec": {**_pod_spec(job), **_placement(job, decoration)},
    }


def _metadata(job: FineTuneJob, serial: int, decoration: PodDecoration) -> JsonObject:
    own = {LABEL_JOB: job.metadata.name, LABEL_JOB_UID: job.metadata.uid, LABEL_SERIAL: str(serial)}
    metadata: JsonObject = {
        "name": job.member_name(serial),
        "namespace": job.metadata.namespace,
        "labels": {**job.spec.placement.labels, **decoration.labels, **own},
        "ownerReferences": [owner_reference(job)],
    }
    annotations = {**job.spec.placement.annotations, **decoration.annotations}
    if annotations:
        metadata["annotations"] = annotations
    return metadata


def _pod_spec(job: FineTuneJob) -> JsonObject:
    claims = _claims(job)
    spec: JsonObject = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": job.spec.termination_grace_period_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "fsGroup": FS_GROUP,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(job, claims)],
        "volumes": _volumes(job, claims),
    }
    if job.spec.storage.service_account_name:
        spec["serviceAccountName"] = job.spec.storage.service_account_name
    return spec


def _container(job: FineTuneJob, claims: dict[str, bool]) -> JsonObject:
    assert job.status.pinned is not None, "a member is created only for an admitted job"
    return {
        "name": CONTAINER,
        "image": job.status.pinned.image,
        "imagePullPolicy": "IfNotPresent",
        "env": _environment(job),
        "resources": _resources(job.spec.resources),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePath": TERMINATION_LOG,
        "terminationMessagePolicy": "File",
        "volumeMounts": _mounts(job, claims),
    }


def _environment(job: FineTuneJob) -> list[JsonObject]:
    fields = {
        "FINETUNE_MEMBER_UID": "metadata.uid",
        "FINETUNE_MEMBER_NAME": "metadata.name",
        "FINETUNE_ADDRESS": "status.podIP",
    }
    values = {
        "FINETUNE_CONFIG": f"{CONFIG_DIR}/{CONFIG_KEY}",
        "FINETUNE_CHANNEL": CHANNEL_DIR,
        "FINETUNE_TOKEN": f"{TOKEN_DIR}/token",
        "FINETUNE_WORK_DIR": WORK_DIR,
        "FINETUNE_STATE_DIR": STATE_DIR,
        "FINETUNE_TERMINATION_LOG": TERMINATION_LOG,
        "FINETUNE_GRACE_SECONDS": str(job.spec.termination_grace_period_seconds),
        "FINETUNE_FILE_PLACES": "refused",  # a pod has no file that a job may name
        "HOME": WORK_DIR,  # the root file system is read-only
    }
    if job.spec.storage.secret_name:
        values["FINETUNE_CREDENTIALS_DIR"] = CREDENTIALS_DIR
    if job.spec.tracking.report_to:
        values["FINETUNE_TRACKING_DIR"] = TRACKING_DIR if job.spec.tracking.secret_name else CREDENTIALS_DIR
    return [
        *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()),
        *({"name": name, "value": value} for name, value in values.items()),
    ]


def _resources(resources: ResourcesSpec) -> JsonObject:
    """cpu and memory are always requested: a BestEffort pod is the first to be evicted. A limit alone is a request, too."""
    requests = {name: str(amount) for name, amount in resources.requests.items()}
    limits = {name: str(amount) for name, amount in resources.limits.items()}
    for name, amount in ResourcesSpec().requests.items():
        if name not in requests and name not in limits:
            requests[name] = str(amount)
    return {"requests": requests, **({"limits": limits} if limits else {})}


def _claims(job: FineTuneJob) -> dict[str, bool]:
    """Claims of all pvc:// places, in order; True: read-only, because it holds inputs only."""
    spec = job.spec
    inputs = [spec.model.uri, *_row_uris(job)]
    claims: dict[str, bool] = {}
    for uris, is_input in ((inputs, True), ([spec.checkpoint.uri, spec.output.uri], False)):
        for place in map(parse_place, uris):
            if place.scheme is Scheme.PVC:
                claims[place.container] = is_input and claims.get(place.container) is not False
    return claims


def _row_uris(job: FineTuneJob) -> tuple[str, ...]:
    rows = job.spec.dataset
    return (rows.uri,) if rows.eval_uri is None else (rows.uri, rows.eval_uri)


def _config_maps(job: FineTuneJob) -> tuple[str, ...]:
    """Names of the user's ConfigMaps that hold rows, each once."""
    places = map(parse_place, _row_uris(job))
    return tuple(dict.fromkeys(place.container for place in places if place.scheme is Scheme.CONFIGMAP))


def _volumes(job: FineTuneJob, claims: dict[str, bool]) -> list[JsonObject]:
    token = {"serviceAccountToken": {"audience": AUDIENCE, "expirationSeconds": MEMBER_TOKEN_SECONDS, "path": "token"}}
    volumes: list[JsonObject] = [
        {"name": "config", "configMap": {"name": config_map_name(job)}},
        {"name": "channel", "configMap": {"name": channel_map_name(job)}},
        {"name": "token", "projected": {"sources": [token]}},
        {"name": "state", "emptyDir": {"medium": "Memory"}},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
        {"name": "work", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
    ]
    if job.spec.storage.secret_name:
        volumes.append({"name": "credentials", "secret": {"secretName": job.spec.storage.secret_name, "defaultMode": 0o440}})
    if job.spec.tracking.report_to and job.spec.tracking.secret_name:
        source = {"secretName": job.spec.tracking.secret_name, "defaultMode": 0o440, "optional": True}
        volumes.append({"name": "tracking", "secret": source})
    volumes += [{"name": f"pvc-{index}", "persistentVolumeClaim": {"claimName": claim}} for index, claim in enumerate(claims)]
    # Optional, so that the agent and not the kubelet says what is missing; the kubelet brings a late one.
    volumes += [{"name": f"rows-{index}", "configMap": {"name": name, "optional": True}} for index, name in enumerate(_config_maps(job))]
    return volumes


def _mounts(job: FineTuneJob, claims: dict[str, bool]) -> list[JsonObject]:
    mounts: list[JsonObject] = [
        {"name": "config", "mountPath": CONFIG_DIR, "readOnly": True},
        {"name": "channel", "mountPath": CHANNEL_DIR, "readOnly": True},
        {"name": "token", "mountPath": TOKEN_DIR, "readOnly": True},
        {"name": "state", "mountPath": STATE_DIR},
        {"name": "shm", "mountPath": "/dev/shm"},  # a pod's own has 64 MiB, NCCL wants more
        {"name": "work", "mountPath": WORK_DIR},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    if job.spec.storage.secret_name:
        mounts.append({"name": "credentials", "mountPath": CREDENTIALS_DIR, "readOnly": True})
    if job.spec.tracking.report_to and job.spec.tracking.secret_name:
        mounts.append({"name": "tracking", "mountPath": TRACKING_DIR, "readOnly": True})
    for index, (claim, is_read_only) in enumerate(claims.items()):
        mount: JsonObject = {"name": f"pvc-{index}", "mountPath": f"{PVC_MOUNT_ROOT}/{claim}"}
        mounts.append({**mount, "readOnly": True} if is_read_only else mount)
    for index, name in enumerate(_config_maps(job)):
        mounts.append({"name": f"rows-{index}", "mountPath": f"{CONFIGMAP_MOUNT_ROOT}/{name}", "readOnly": True})
    return mounts


def _placement(job: FineTuneJob, decoration: PodDecoration) -> JsonObject:
    placement = job.spec.placement
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {LABEL_JOB_UID: job.metadata.uid}},
    }
    spec: JsonObject = {"tolerations": _tolerations(placement), "topologySpreadConstraints": [spread]}
    if placement.node_selector:
        spec["nodeSelector"] = dict(placement.node_selector)
    if placement.priority_class_name:
        spec["priorityClassName"] = placement.priority_class_name
    if placement.runtime_class_name:
        spec["runtimeClassName"] = placement.runtime_class_name
    if placement.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in placement.image_pull_secrets]
    if decoration.scheduling_gates:
        spec["schedulingGates"] = [{"name": name} for name in decoration.scheduling_gates]
    return spec


def _tolerations(placement: PlacementSpec) -> list[JsonObject]:
    """The user's, and a short one for lost nodes: we see a loss ourselves, a kubelet's blip must not delete healthy members."""
    given = [toleration.model_dump(mode="json", by_alias=True, exclude_none=True) for toleration in placement.tolerations]
    named = {toleration.get("key") for toleration in given}
    own = [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": NODE_LOSS_SECONDS}
        for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
        if key not in named
    ]
    return [*given, *own]
