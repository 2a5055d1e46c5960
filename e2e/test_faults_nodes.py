"""Nodes are emptied, cut off and switched off under a running job."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from tests.faults.ledger import Figures

from e2e.faults import (
    LONG,
    LONGEST,
    Undisturbed,
    cordoned,
    drained,
    in_training,
    member_away_from_the_operator,
    strike,
    survived,
    tainted,
    told_reason,
    wait_node_ready,
)
from e2e.fixtures import Product
from e2e.harness.cluster import Cluster
from e2e.harness.harm import partitioned
from e2e.product import Job, JsonObject, Kubectl, Team, wait_until

NOTICE_SECONDS = 15.0
GRACE_SECONDS = 15
PARTITION_SECONDS = 20.0
KNOWN_PACE_STEPS = 10  # a hang is told within 5 s, and not within 30
DETECTION_SECONDS = 10  # 5 s are promised, and twice as long on a busy machine


@pytest.mark.fault(6)
def test_a_member_on_a_tainted_node_trains_until_its_replacement_is_ready(
    team: Team, undisturbed: Undisturbed, figures: Figures, product: Product
) -> None:
    job = in_training(team, "tainted", training=LONG)
    victim = member_away_from_the_operator(job, product)
    wound = strike(job, figures)
    with tainted(job.kubectl, victim["spec"]["nodeName"]):
        account = survived(wound, undisturbed, disruptions=1, max_lost_steps=0)
    assert account.tells("MemberLost", victim["metadata"]["name"])
    assert account.recoveries[0]["failureClass"] == "Disrupted"


@pytest.mark.fault(6)
def test_a_drain_empties_the_node_and_costs_no_step(team: Team, undisturbed: Undisturbed, figures: Figures, product: Product) -> None:
    job = in_training(team, "drained", training=LONG)
    victim = member_away_from_the_operator(job, product)
    wound = strike(job, figures)
    with drained(job.kubectl, victim["spec"]["nodeName"]):
        account = survived(wound, undisturbed, disruptions=1, max_lost_steps=0)
    assert account.tells("MemberLost", victim["metadata"]["name"])


@pytest.mark.fault(10)
def test_a_node_cut_off_without_warning_is_found_by_its_peers(
    team: Team, undisturbed: Undisturbed, figures: Figures, product: Product, nodes_under_control: Cluster
) -> None:
    job = in_training(team, "cut-off")
    victim = member_away_from_the_operator(job, product)
    wound = strike(job, figures)
    with cut_off(nodes_under_control, job.kubectl, victim["spec"]["nodeName"]):
        job.wait_complete()
    account = survived(wound, undisturbed, disruptions=1, max_lost_steps=1)
    assert account.seconds_to_detection < DETECTION_SECONDS
    assert account.tells("MemberLost", victim["metadata"]["name"], "peers")


@pytest.mark.fault(10)
def test_a_node_that_loses_power_is_found_by_its_peers(
    team: Team, undisturbed: Undisturbed, figures: Figures, product: Product, nodes_under_control: Cluster
) -> None:
    job = in_training(team, "switched-off")
    victim = member_away_from_the_operator(job, product)
    wound = strike(job, figures)
    with switched_off(nodes_under_control, job.kubectl, victim["spec"]["nodeName"]):
        job.wait_complete()
    account = survived(wound, undisturbed, disruptions=1, max_lost_steps=1)
    assert account.seconds_to_detection < DETECTION_SECONDS
    assert account.tells("MemberLost", victim["metadata"]["name"], "peers")


@pytest.mark.slow
@pytest.mark.fault(7)
def test_a_node_that_is_taken_after_a_notice_costs_no_step(
    team: Team, undisturbed: Undisturbed, figures: Figures, product: Product, nodes_under_control: Cluster
) -> None:
    job = in_training(team, "spot", training=LONG)
    victim = member_away_from_the_operator(job, product)
    node, uid = victim["spec"]["nodeName"], victim["metadata"]["uid"]
    wound = strike(job, figures)
    with tainted(job.kubectl, node):
        time.sleep(NOTICE_SECONDS)
        with suppress(LookupError):  # it has left in time
            nodes_under_control.kill_container(node, uid)
        account = survived(wound, undisturbed, disruptions=1, max_lost_steps=0)
    assert account.tells("MemberLost", victim["metadata"]["name"])


@pytest.mark.slow
@pytest.mark.fault(9)
def test_a_member_that_leaves_and_finds_no_successor_commits_and_the_job_waits(
    team: Team, undisturbed: Undisturbed, figures: Figures, s3: Any
) -> None:
    job = in_training(team, "no-room", training=LONGEST, terminationGracePeriodSeconds=GRACE_SECONDS)
    nodes = [node["metadata"]["name"] for node in job.kubectl.items("nodes")]
    victim = job.live_pods()[-1]
    with cordoned(job.kubectl, *nodes):
        wound = strike(job, figures)
        job.kubectl.run("delete", "pod", victim["metadata"]["name"], "--wait=false")
        wait_until("the reason in status", lambda: told_reason(job) == "Unschedulable", deadline_seconds=60)
        wait_until("the end of training", lambda: job.status["phase"] == "Recovering", deadline_seconds=60)
        wait_until("the end of the leaver", lambda: job.kubectl.get("pod", victim["metadata"]["name"]) is None, deadline_seconds=60)
        wait_until("all that was trained in the store", lambda: is_all_committed(job.status), deadline_seconds=GRACE_SECONDS)
    account = survived(wound, undisturbed, disruptions=1, max_lost_steps=0)
    assert account.recoveries[0]["failureClass"] == "Disrupted"


@pytest.mark.slow
@pytest.mark.fault(12)
def test_a_member_cut_off_from_its_peers_only_leaves_one_lineage_of_commits(
    team: Team, undisturbed: Undisturbed, figures: Figures, s3: Any, nodes_under_control: Cluster
) -> None:
    job = in_training(team, "partitioned", training=LONGEST, restartPolicy={"maxCrashesWithoutProgress": 10})
    apart, other = job.live_pods()
    assert apart["spec"]["nodeName"] != other["spec"]["nodeName"], "the soft spread puts two members on two nodes"
    lineage: list[tuple[int, int]] = []
    wait_until("a known pace", lambda: job.status["progress"]["step"] >= KNOWN_PACE_STEPS, deadline_seconds=60)
    wound = strike(job, figures)
    with partitioned(nodes_under_control, apart["spec"]["nodeName"], apart["status"]["podIP"], [other["status"]["podIP"]]):
        note_commits(lineage, s3, team, job, seconds=PARTITION_SECONDS)
    while job.status["phase"] != "Complete":
        note_commits(lineage, s3, team, job, seconds=1.0)
    survived(wound, undisturbed, crashes=range(1, 10), disruptions=range(3), replaced=range(3), max_lost_steps=1)
    assert lineage == sorted(lineage), "a commit of an older formation appeared after one of a newer"


def is_all_committed(status: JsonObject) -> bool:
    return bool(status["lastCommit"]["step"] >= status["progress"]["step"])


def note_commits(lineage: list[tuple[int, int]], s3: Any, team: Team, job: Job, *, seconds: float) -> None:
    """Add the (formation, step) of each commit as it is met first, for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = s3.list_objects_v2(Bucket=team.bucket, Prefix=f"checkpoints/{job.name}/").get("Contents", [])
        names = [entry["Key"].rpartition("/f")[2].removesuffix(".json") for entry in found if "/commit/" in entry["Key"]]
        ids = sorted((int(formation), int(step)) for formation, _, step in (name.partition("-") for name in names))
        lineage += [state for state in ids if state not in lineage]
        time.sleep(0.25)


@contextmanager
def cut_off(cluster: Cluster, kubectl: Kubectl, node: str) -> Iterator[None]:
    cluster.cut(node)
    try:
        yield
    finally:
        cluster.heal(node)
        wait_node_ready(kubectl, node)


@contextmanager
def switched_off(cluster: Cluster, kubectl: Kubectl, node: str) -> Iterator[None]:
    cluster.power_off(node)
    try:
        yield
    finally:
        cluster.power_on(node)
        wait_node_ready(kubectl, node)
