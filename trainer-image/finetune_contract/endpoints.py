"""Addresses that a job may name for S3 and trackers: http or https, a host, and none that only this node should be asked.

Link-local addresses are where clouds answer with the node's own credentials. They are refused in every spelling unless the platform
lists them.
"""

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

_METADATA_NAMES = {"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
_METADATA_ADDRESSES = {
    ipaddress.ip_address(text) for text in ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16", "192.0.0.192")
}
_LINK_LOCAL = (ipaddress.ip_network("169.254.0.0/16"), ipaddress.ip_network("fe80::/10"))
_EMBEDS_LAST_32_BITS = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("::/96"))
_HOST = re.compile(r"[a-z0-9_]([-a-z0-9_.]*[a-z0-9_])?", re.IGNORECASE)
_NAMES_INSIDE = (".svc", ".cluster.local", ".localhost")
_MAX_CHARS = 2048
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """`host` in lower case, without brackets and without the root's dot; `port` as given or the scheme's."""

    host: str
    port: int


def parse_endpoint(url: str) -> Endpoint:
    """Raises ValueError in the user's words. Never repeats a password or a query."""
    wanted = "wanted an http:// or https:// URL with a host, such as https://s3.example.com"
    shown = repr(re.split("[?#]", url)[0].rpartition("@")[2][:80])
    if len(url) > _MAX_CHARS or any(not char.isprintable() or char.isspace() or char == "\\" for char in url):
        raise ValueError(f"{shown} is no URL; {wanted}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(f"{shown} is no URL; {wanted}") from None
    if parts.scheme.lower() not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{shown} is no URL; {wanted}")
    if "@" in parts.netloc:
        raise ValueError("the URL has a user name or a password in it; put credentials into the Secret")
    if parts.query or parts.fragment:
        raise ValueError(f"{shown} has a query or a fragment; {wanted}")
    host = parts.hostname.rstrip(".").lower()
    if _literal(host) is None and not (host.isascii() and _HOST.fullmatch(host) and ".." not in host):
        raise ValueError(f"{shown} has no valid host; {wanted}")
    return Endpoint(host=host, port=port if port is not None else {"http": 80, "https": 443}[parts.scheme.lower()])


def check_endpoint(url: str, *, allowed: Collection[str] = ()) -> Endpoint:
    """Parse, and refuse what is a link-local or metadata address as it is written. `allowed`: hosts that the platform lists."""
    endpoint = parse_endpoint(url)
    address = _literal(endpoint.host)
    if endpoint.host in allowed:
        return endpoint
    if endpoint.host in _METADATA_NAMES or (address is not None and is_metadata_address(address)):
        raise ValueError(_refusal(endpoint.host))
    return endpoint


def refuse_addresses(host: str, addresses: Collection[str], *, allowed: Collection[str] = ()) -> None:
    """Raises ValueError if `host` was resolved to a link-local or metadata address."""
    if host in allowed:
        return
    for text in addresses:
        address = _literal(text)
        if address is not None and text not in allowed and is_metadata_address(address):
            raise ValueError(_refusal(f"{host} (address {text})"))


def is_beyond_the_cluster(host: str) -> bool:
    """Neither a private or loopback address nor a name that only a cluster or a machine resolves."""
    address = _literal(host)
    if address is not None:
        return not (address.is_private or address.is_loopback)
    return "." in host and not host.endswith(_NAMES_INSIDE)


def is_metadata_address(address: IpAddress) -> bool:
    """Also behind an IPv6 address that carries an IPv4 one."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and any(address in network for network in _EMBEDS_LAST_32_BITS):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None and is_metadata_address(inner):
            return True
        address = ipaddress.IPv6Address(int(address))  # without a zone
    return address in _METADATA_ADDRESSES or any(address.version == network.version and address in network for network in _LINK_LOCAL)


def _literal(host: str) -> IpAddress | None:
    """The address that `host` is, also as inet_aton reads it: 2852039166, 0xa9.254.0251.254, 169.254.43518."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    parts = host.split(".")
    if not 1 <= len(parts) <= 4 or not all(re.fullmatch(r"0x[0-9a-f]*|[0-9]+", part) for part in parts):
        return None
    try:
        numbers = [_number(part) for part in parts]
    except ValueError:
        return None
    limits = [256] * (len(parts) - 1) + [256 ** (5 - len(parts))]
    if any(number >= limit for number, limit in zip(numbers, limits, strict=True)):
        return None
    value = sum(number << (8 * (3 - index)) for index, number in enumerate(numbers[:-1])) + numbers[-1]
    return ipaddress.IPv4Address(value)


def _number(part: str) -> int:
    if part.startswith("0x"):
        return int(part[2:] or "0", 16)
    return int(part, 8 if len(part) > 1 and part.startswith("0") else 10)


def _refusal(host: str) -> str:
    return (
        f"{host} is a link-local or metadata address, which answers with credentials of the node; name the store's own address, "
        "or ask the platform team to list it in FINETUNE_ALLOWED_ENDPOINTS of the trainer image"
    )
