"""Ports for servers of tests, chosen as a member chooses its own: below those that the kernel gives to outgoing connections."""

from random import Random

from finetune_agent.member.voice import find_port


def unused_port() -> int:
    """Free now, on all addresses of this machine."""
    return find_port(Random())
