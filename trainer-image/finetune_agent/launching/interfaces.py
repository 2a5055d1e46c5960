"""Which network interface leads to a peer; gloo and NCCL guess wrongly on machines with several."""

import fcntl
import socket
import struct

_SIOCGIFADDR = 0x8915


def interface_of(peer: str) -> str | None:
    """Name of the interface whose IPv4 address a packet to `peer` would leave from; None if it cannot be told."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((peer, 9))  # a datagram socket sends nothing on connect
            own = probe.getsockname()[0]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            return next((name for _, name in socket.if_nameindex() if _address_of(asked, name) == own), None)
    except OSError:
        return None


def _address_of(asked: socket.socket, interface: str) -> str | None:
    try:
        answer = fcntl.ioctl(asked.fileno(), _SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
    except OSError:
        return None
    return socket.inet_ntoa(answer[20:24])
