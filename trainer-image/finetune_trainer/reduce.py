"""The canonical reduction: one binary tree over the micro-batches of a step, summed in the same order whatever the world size.

tree(n) splits at the largest power of two below n. A rank sums the maximal nodes of the tree that lie within its own micro-batches;
then each rank gets one slice of all nodes, sums it up the rest of the tree, and the slices are gathered. Floating-point addition is
not associative, so a plain all-reduce gives other bytes for each world size (measured); this gives the same for all.
"""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist

from finetune_trainer.ranks import Ranks

Node = tuple[int, int]  # leaves [first, last)
Leaf = Callable[[int], torch.Tensor]


def own_leaves(rank: int, world_size: int, num_leaves: int) -> range:
    """Contiguous, in rank order, sizes differ by one at most."""
    return range(num_leaves * rank // world_size, num_leaves * (rank + 1) // world_size)


def split_point(node: Node) -> int:
    """First leaf of the right child: the left child has the largest power of two below the number of leaves."""
    first, last = node
    return first + (1 << ((last - first - 1).bit_length() - 1))


def maximal_nodes(leaves: range, node: Node) -> tuple[Node, ...]:
    """The largest nodes of the tree below `node` whose leaves all lie in `leaves`, in order."""
    first, last = node
    if first >= leaves.stop or last <= leaves.start:
        return ()
    if leaves.start <= first and last <= leaves.stop:
        return (node,)
    middle = split_point(node)
    return maximal_nodes(leaves, (first, middle)) + maximal_nodes(leaves, (middle, last))


def sum_node(node: Node, leaf: Leaf, known: dict[Node, torch.Tensor]) -> torch.Tensor:
    """Sum up the tree below `node`; a value in `known` stands for its node. The tensors that `leaf` gives are consumed."""
    if node in known:
        return known[node]
    first, last = node
    if last - first == 1:
        return leaf(first)
    middle = split_point(node)
    return sum_node((first, middle), leaf, known).add_(sum_node((middle, last), leaf, known))


def sum_own(num_leaves: int, leaf: Leaf, ranks: Ranks) -> list[torch.Tensor]:
    """Sums of this rank's maximal nodes. `leaf(i)` is called once for each own leaf, in order, and returns a fresh vector.

    At most log2(leaves) + 1 vectors are alive at a time.
    """
    return [sum_node(node, leaf, {}) for node in maximal_nodes(own_leaves(ranks.rank, ranks.world_size, num_leaves), (0, num_leaves))]


def sum_over_ranks(sums: list[torch.Tensor], num_leaves: int, ranks: Ranks, *, length: int, device: torch.device) -> torch.Tensor:
    """Collective. Sum of all leaves out of every rank's `sum_own`: the same bytes on every rank and for every world size.

    `length` is that of the vectors: a rank may have none of its own.
    """
    if ranks.world_size == 1:
        return sums[0]
    nodes = [maximal_nodes(own_leaves(rank, ranks.world_size, num_leaves), (0, num_leaves)) for rank in range(ranks.world_size)]
    slice_length = -(-length // ranks.world_size)
    received = _exchange_slices(sums, [len(own) for own in nodes], ranks, slice_length, device)
    known = dict(zip([node for own in nodes for node in own], received.unbind(0), strict=True))
    total = sum_node((0, num_leaves), _never, known).contiguous()
    gathered = torch.empty(ranks.world_size * slice_length, device=device)
    dist.all_gather_into_tensor(gathered, total)
    return gathered[:length]


def _exchange_slices(
    sums: Sequence[torch.Tensor], counts: Sequence[int], ranks: Ranks, slice_length: int, device: torch.device
) -> torch.Tensor:
    """(all nodes, slice): this rank's slice of every node of every rank, in rank order."""
    num_own, world_size = len(sums), ranks.world_size
    padded = torch.zeros(num_own, world_size * slice_length, device=device)
    for row, vector in zip(padded, sums, strict=True):
        row[: vector.numel()] = vector
    sent = padded.view(num_own, world_size, slice_length).transpose(0, 1).reshape(-1)
    received = torch.empty(sum(counts) * slice_length, device=device)
    dist.all_to_all_single(received, sent, [count * slice_length for count in counts], [num_own * slice_length] * world_size)
    return received.view(-1, slice_length)


def _never(leaf: int) -> torch.Tensor:
    raise AssertionError(f"no rank sent a node above leaf {leaf}")
