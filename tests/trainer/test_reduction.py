"""The canonical tree: its shape, and that the sum has the same bits however the leaves are dealt to ranks."""

import pytest
import torch

from finetune_trainer.ranks import Ranks
from finetune_trainer.reduce import maximal_nodes, own_leaves, split_point, sum_node, sum_own

COUNTS = (1, 2, 3, 5, 7, 8, 13, 32, 33)


def leaves_of(count):
    generator = torch.Generator().manual_seed(count)
    return [torch.randn(17, generator=generator) * 10 ** float(index % 5) for index in range(count)]


def ranks_of(rank, world_size):
    return Ranks(rank=rank, local_rank=rank, world_size=world_size, local_world_size=world_size, node_rank=0)


@pytest.mark.parametrize(("node", "middle"), [((0, 2), 1), ((0, 3), 2), ((0, 4), 2), ((0, 5), 4), ((4, 7), 6), ((0, 13), 8)])
def test_the_left_child_has_the_largest_power_of_two_below_the_number_of_leaves(node, middle):
    assert split_point(node) == middle


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
def test_maximal_nodes_of_all_ranks_cover_each_leaf_once(count, world_size):
    covered = [
        leaf
        for rank in range(world_size)
        for node in maximal_nodes(own_leaves(rank, world_size, count), (0, count))
        for leaf in range(*node)
    ]
    assert covered == list(range(count))


@pytest.mark.parametrize("count", COUNTS)
def test_the_sum_has_the_same_bits_for_every_world_size(count):
    def total(world_size):
        known = {}
        for rank in range(world_size):
            nodes = maximal_nodes(own_leaves(rank, world_size, count), (0, count))
            leaves = leaves_of(count)
            known |= dict(zip(nodes, sum_own(count, leaves.__getitem__, ranks_of(rank, world_size)), strict=True))
        return sum_node((0, count), lambda leaf: pytest.fail(f"leaf {leaf} was sent by nobody"), known)

    alone = total(1)
    assert all(torch.equal(alone, total(world_size)) for world_size in range(2, count + 3))


def test_a_plain_sum_differs_so_that_the_tree_is_needed():
    leaves = leaves_of(13)
    plain = sum(leaves[1:], leaves[0].clone())
    assert not torch.equal(plain, sum_own(13, leaves_of(13).__getitem__, ranks_of(0, 1))[0])


def test_few_vectors_are_alive_at_a_time():
    alive, most = 0, 0

    class Counted:
        def __init__(self):
            nonlocal alive, most
            alive += 1
            most = max(most, alive)

        def add_(self, other):
            nonlocal alive
            alive -= 1
            return self

    sum_own(33, lambda _: Counted(), ranks_of(0, 1))
    assert most <= 7
