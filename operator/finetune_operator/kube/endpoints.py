"""Points the channel's selector-less Service at the leader, by the one EndpointSlice that only the leader writes."""

import ipaddress

from finetune_operator.kube.client import MERGE_PATCH, ApiClient, ApiError, JsonObject


def render_slice(service: str, pod_ip: str | None, port: int) -> JsonObject:
    """`pod_ip` None: nobody serves the channel."""
    version = ipaddress.ip_address(pod_ip).version if pod_ip else 4
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": service,
            "labels": {"kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": "finetune.dev"},
        },
        "addressType": f"IPv{version}",
        "ports": [{"name": "channel", "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [pod_ip], "conditions": {"ready": True}}] if pod_ip else [],
    }


async def publish_leader(client: ApiClient, namespace: str, service: str, pod_ip: str | None, port: int) -> None:
    """Raises ApiError and Unreachable. The address family of a slice cannot change, so it is not sent again."""
    path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
    body = render_slice(service, pod_ip, port)
    patch = {key: body[key] for key in ("endpoints", "ports")} | {"metadata": {"labels": body["metadata"]["labels"]}}
    try:
        await client.request("PATCH", f"{path}/{service}", body=patch, content_type=MERGE_PATCH)
    except ApiError as error:
        if error.status != 404:
            raise
        await client.request("POST", path, body=body)
