"""Commits are damaged, and agents die while they write them: what does not verify does not exist."""

import asyncio
from random import Random
from zlib import crc32

import pytest
from tests.faults.lives import NUM_STEPS, a_fault_document, judge, live, manifests

from finetune_contract.commits import parse_manifest
from finetune_operator.local.proc import processes_in

MIDDLE = NUM_STEPS // 2


@pytest.mark.fault(19)
@pytest.mark.parametrize("harm", ["flipped bit", "truncated", "zeros", "missing"])
async def test_a_commit_that_does_not_verify_is_named_and_the_one_before_is_taken(harm, undisturbed, inputs, tmp_path, figures):
    spoiled = []

    async def disturb(scene):
        await scene.reach(MIDDLE)
        await scene.until("two commits", lambda _run: len(manifests(tmp_path)) >= 2)
        killed = scene.run.members
        scene.strike()
        for member in killed:
            scene.run.kill_member(member)
        # Their uploaders end with them; what replaces them has to import torch before it reads the store.
        await scene.until("their end", lambda _run: not any(processes_in(member.folder) for member in killed))
        spoiled.append(newest_state(tmp_path).stem)
        spoil(newest_state(tmp_path), harm)

    life = await live(tmp_path, a_fault_document(tmp_path, inputs), disturb)
    judge(life, undisturbed, figures, crashes=1, max_lost_steps=MIDDLE)
    assert life.tells("CommitSkipped", spoiled[0])


def newest_state(folder):
    manifest = manifests(folder)[-1]
    return manifest.parents[1] / "state" / f"{manifest.stem}.bin"


def spoil(file, harm):
    data = bytearray(file.read_bytes())
    if harm == "missing":
        file.unlink()
        return
    if harm == "flipped bit":
        data[len(data) // 2] ^= 1
    elif harm == "zeros":
        data[:] = bytes(len(data))
    else:
        del data[len(data) // 2 :]
    file.write_bytes(data)


@pytest.mark.fault(20)
async def test_an_agent_killed_at_any_moment_of_an_upload_leaves_only_commits_that_verify(undisturbed, inputs, tmp_path, figures):
    offsets, num_checked = Random(20), 0

    async def disturb(scene):
        nonlocal num_checked
        for step in (10, 25, 40):
            await scene.reach(step)
            await asyncio.sleep(offsets.uniform(0, 0.3))
            victim = scene.member_of_node_rank(0)
            scene.strike()
            scene.run.kill_member(victim)
            num_checked += check_commits(tmp_path)

    life = await live(tmp_path, a_fault_document(tmp_path, inputs, checkpoint={"minIntervalSeconds": 0}), disturb)
    judge(life, undisturbed, figures, crashes=3)
    assert num_checked + check_commits(tmp_path) > 0


def check_commits(folder):
    found = 0
    for file in manifests(folder):
        try:
            manifest = parse_manifest(file.read_bytes())
            state = (file.parents[1] / "state" / f"{file.stem}.bin").read_bytes()
        except FileNotFoundError:  # pruned between the listing and the reading
            continue
        assert (len(state), crc32(state)) == (manifest.num_bytes, manifest.crc32)
        found += 1
    return found
