"""The operator is killed, doubled, stopped and cut off: nothing is ever doubled, and training goes on."""

import random
import time

import pytest
from tests.faults.ledger import Figures

from e2e.faults import LONG, LONGER, Undisturbed, came_through, in_training, strike, survived
from e2e.fixtures import Product
from e2e.harness.cluster import Cluster
from e2e.harness.harm import dropped, frozen_pod
from e2e.harness.network import HOST_ADDRESS
from e2e.history import recorded_history
from e2e.product import SYSTEM, Job, JsonObject, Team, wait_until
from e2e.steps import watching_steps

CUT_SECONDS = 20.0  # more than a lease lives and than a channel may be silent
SEED = 27
NUM_JOBS, KILLS_A_JOB = 3, 4
LONGEST_PAUSE_SECONDS = 5.0


@pytest.mark.fault(27)
def test_an_operator_killed_while_a_member_dies_makes_one_replacement(
    team: Team, undisturbed: Undisturbed, figures: Figures, product: Product, nodes_under_control: Cluster
) -> None:
    job = in_training(team, "both-killed")
    victim = job.live_pods()[-1]
    wound = strike(job, figures)
    kill(nodes_under_control, victim)
    product.kill_operator()
    account = survived(wound, undisturbed, crashes=1, max_lost_steps=1)
    assert account.tells("MemberLost", victim["metadata"]["name"])


@pytest.mark.slow
@pytest.mark.fault(27)
def test_an_operator_killed_again_and_again_never_doubles_anything(
    team: Team, undisturbed: Undisturbed, figures: Figures, product: Product, nodes_under_control: Cluster
) -> None:
    """Members die meanwhile, so that the kills fall into creations and orders."""
    chance = random.Random(SEED)
    with recorded_history(team.kubectl) as history:
        for number in range(NUM_JOBS):
            job = team.submit(f"again-{number}", training=LONG)
            wound = strike(job, figures)
            for _ in range(KILLS_A_JOB):
                time.sleep(chance.uniform(0.5, 20.0))
                if chance.random() < 0.5 and (crew := whole_crew(job)):
                    kill_if_alive(nodes_under_control, chance.choice(crew))
                    time.sleep(chance.uniform(0.0, 1.0))
                kill_operator_process(nodes_under_control, product)
            account = came_through(wound, undisturbed)
            assert account.lost_steps <= len(account.recoveries), account.recoveries
        history.assert_one_of_each()


@pytest.mark.slow
@pytest.mark.fault(27)
def test_the_second_replica_goes_on_when_the_leader_is_killed(
    team: Team, undisturbed: Undisturbed, figures: Figures, product: Product, nodes_under_control: Cluster
) -> None:
    with product.replicas(2), recorded_history(team.kubectl) as history:
        job = in_training(team, "leader-killed")
        leader, victim = product.leader(), job.live_pods()[-1]
        wound = strike(job, figures)
        kill(nodes_under_control, victim)
        product.kubectl.within(SYSTEM).run("delete", "pod", leader["metadata"]["name"], "--force", "--grace-period=0")
        survived(wound, undisturbed, crashes=1, max_lost_steps=1)
        history.assert_one_of_each()


@pytest.mark.slow
@pytest.mark.fault(27)
def test_a_leader_that_comes_back_as_a_stale_one_changes_nothing(
    team: Team, undisturbed: Undisturbed, figures: Figures, product: Product, nodes_under_control: Cluster
) -> None:
    with product.replicas(2), recorded_history(team.kubectl) as history:
        job = in_training(team, "leader-stale", training=LONG)
        leader, victim = product.leader(), job.live_pods()[-1]
        with frozen_pod(nodes_under_control, leader["spec"]["nodeName"], leader["metadata"]["uid"]):
            wound = strike(job, figures)
            kill(nodes_under_control, victim)
            wait_until("another leader", lambda: product.leader()["metadata"]["uid"] != leader["metadata"]["uid"], deadline_seconds=60)
            wait_until("the next formation", lambda: job.status["formation"]["number"] > 1, deadline_seconds=60)
        survived(wound, undisturbed, crashes=1, max_lost_steps=1)
        history.assert_one_of_each()


@pytest.mark.slow
@pytest.mark.fault(13)
def test_an_operator_cut_off_from_the_api_server_restarts_nothing(
    team: Team, undisturbed: Undisturbed, figures: Figures, product: Product, nodes_under_control: Cluster
) -> None:
    leader = product.leader()
    address = leader["status"]["podIP"]
    packets = (f"ip saddr {address} ip daddr {HOST_ADDRESS} tcp dport 6443", f"ip saddr {HOST_ADDRESS} tcp sport 6443 ip daddr {address}")
    trains_on_while_dropped(packets, "cut-from-api", team, undisturbed, figures, leader=leader, cluster=nodes_under_control)


@pytest.mark.slow
@pytest.mark.fault(13)
def test_an_operator_cut_off_from_all_agents_restarts_nothing(
    team: Team, undisturbed: Undisturbed, figures: Figures, product: Product, nodes_under_control: Cluster
) -> None:
    leader = product.leader()
    packets = (f"ip daddr {leader['status']['podIP']} tcp dport 8443",)
    trains_on_while_dropped(packets, "cut-from-agents", team, undisturbed, figures, leader=leader, cluster=nodes_under_control)


def trains_on_while_dropped(
    packets: tuple[str, ...],
    name: str,
    team: Team,
    undisturbed: Undisturbed,
    figures: Figures,
    *,
    leader: JsonObject,
    cluster: Cluster,
) -> None:
    job = in_training(team, name, training=LONGER)
    pods = {pod["metadata"]["uid"] for pod in job.live_pods()}
    with watching_steps(job.name) as watch:
        wound = strike(job, figures)
        with dropped(cluster, leader["spec"]["nodeName"], *packets):
            time.sleep(CUT_SECONDS)
        survived(wound, undisturbed, replaced=0, max_lost_steps=0)
    assert watch.newest_formation() == 1
    assert watch.longest_pause(since=wound.at.timestamp()) < LONGEST_PAUSE_SECONDS
    assert {pod["metadata"]["uid"] for pod in job.pods()} <= pods


def whole_crew(job: Job) -> list[JsonObject]:
    """Members of a formation that has made a step, or none: whoever lives then holds the newest state."""
    formation = job.status.get("formation", {"serials": []})
    crew = [pod for pod in job.live_pods() if int(pod["metadata"]["labels"]["finetune.dev/serial"]) in formation["serials"]]
    return crew if "firstStepAt" in formation and len(crew) == len(formation["serials"]) else []


def kill(cluster: Cluster, pod: JsonObject) -> None:
    cluster.kill_container(pod["spec"]["nodeName"], pod["metadata"]["uid"])


def kill_if_alive(cluster: Cluster, pod: JsonObject) -> None:
    """One that has no node or no process yet, or has ended, is left alone."""
    try:
        kill(cluster, pod)
    except (KeyError, LookupError):
        return


def kill_operator_process(cluster: Cluster, product: Product) -> None:
    """kill -9; a container that was restarted before would wait for its kubelet's back-off, so its pod is replaced too."""
    for pod in product.operator_pods():
        restarts = sum(status["restartCount"] for status in pod["status"].get("containerStatuses", []))
        kill_if_alive(cluster, pod)
        if restarts:
            product.kubectl.within(SYSTEM).run("delete", "pod", pod["metadata"]["name"], "--force", "--grace-period=0", check=False)
