"""Addresses of the cluster and the links that carry them: one bridge on the host, one veth pair to each node.

No name of a network namespace is registered: a node's namespace lives in its processes, so nothing is left when they have ended.
"""

from dataclasses import dataclass

from e2e.harness.shell import run, succeeds

BRIDGE = "ftbr0"
HOST_ADDRESS = "10.90.0.1"
POD_NETWORK = "10.88.0.0/16"
SERVICE_NETWORK = "10.96.0.0/16"
API_SERVICE_ADDRESS = "10.96.0.1"


@dataclass(frozen=True)
class Place:
    """Where node number `number` (1 to 9) is in the network."""

    number: int

    @property
    def link(self) -> str:
        """The host's end of the veth pair; the node's end is eth0."""
        return f"ftve{self.number}"

    @property
    def address(self) -> str:
        return f"10.90.0.1{self.number}"

    @property
    def pod_network(self) -> str:
        return f"10.88.{self.number}.0/24"


def create_bridge() -> None:
    run("ip", "-batch", "-", stdin=f"link add {BRIDGE} type bridge\naddr add {HOST_ADDRESS}/24 dev {BRIDGE}\nlink set {BRIDGE} up\n")


def connect(place: Place, *, holder_pid: int, peers: tuple[Place, ...]) -> None:
    """Give the namespace of `holder_pid` an eth0 on the bridge, and everybody the route to its pods."""
    host_side = [
        f"link add {place.link} type veth peer name eth0 netns {holder_pid}",
        f"link set {place.link} master {BRIDGE} up",
        f"route replace {place.pod_network} via {place.address}",
    ]
    run("ip", "-batch", "-", stdin="\n".join(host_side))
    node_side = [
        "link set lo up",
        f"addr add {place.address}/24 dev eth0",
        "link set eth0 up",
        f"route add default via {HOST_ADDRESS}",
        *(f"route add {peer.pod_network} via {peer.address}" for peer in peers if peer != place),
    ]
    run("nsenter", "-t", str(holder_pid), "-n", "ip", "-batch", "-", stdin="\n".join(node_side))


def cut(place: Place) -> None:
    """Take the node's link down: it reaches nobody and nobody reaches it, while its processes run on."""
    run("ip", "link", "set", place.link, "down")


def heal(place: Place) -> None:
    run("ip", "link", "set", place.link, "up")


def is_linked(place: Place) -> bool:
    """The kernel removes a link some time after the last process of its namespace has ended."""
    return succeeds("ip", "link", "show", place.link)


def remove_links(places: tuple[Place, ...]) -> None:
    """Remove the bridge and all veth pairs; those that are gone already are fine. Routes go with the bridge."""
    for link in (*(place.link for place in places), BRIDGE):
        succeeds("ip", "link", "delete", link)
