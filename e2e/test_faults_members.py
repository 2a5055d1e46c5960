"""Members are lost in every way that does not take their node along; the run goes on and ends with the same bytes."""

import pytest
from tests.faults.ledger import Figures

from e2e.faults import LONG, SHORT, Undisturbed, evict, force_delete, in_training, member_of_node_rank, steps_within, strike, survived
from e2e.harness.cluster import Cluster
from e2e.product import Team

SMALL_LIMIT = {"limits": {"memory": "2Gi"}}  # soon reached


@pytest.mark.fault(2)
def test_a_member_whose_agent_is_killed_is_replaced_at_once(
    team: Team, undisturbed: Undisturbed, figures: Figures, nodes_under_control: Cluster
) -> None:
    job = in_training(team, "agent-killed")
    victim = job.live_pods()[-1]
    wound = strike(job, figures)
    nodes_under_control.kill_container(victim["spec"]["nodeName"], victim["metadata"]["uid"])
    account = survived(wound, undisturbed, crashes=1, max_lost_steps=1)
    assert account.recoveries[0]["failureClass"] == "Infrastructure"
    assert account.tells("MemberLost", victim["metadata"]["name"], "exit code 137")


@pytest.mark.fault(3)
def test_the_loss_of_node_rank_0_is_like_any_other(team: Team, undisturbed: Undisturbed, figures: Figures) -> None:
    job = in_training(team, "first-lost")
    victim = member_of_node_rank(job, 0)
    wound = strike(job, figures)
    force_delete(job, victim)
    account = survived(wound, undisturbed, disruptions=1, max_lost_steps=1)
    assert account.tells("MemberLost", victim["metadata"]["name"])


@pytest.mark.fault(6)
def test_an_evicted_member_trains_until_its_replacement_is_ready(team: Team, undisturbed: Undisturbed, figures: Figures) -> None:
    job = in_training(team, "evicted", training=LONG)
    victim = job.live_pods()[0]
    wound = strike(job, figures)
    evict(job, victim)
    account = survived(wound, undisturbed, disruptions=1, max_lost_steps=0)
    assert account.tells("MemberLost", victim["metadata"]["name"])
    assert account.recoveries[0]["failureClass"] == "Disrupted"


@pytest.mark.fault(11)
def test_a_job_that_lost_all_members_at_once_resumes_from_the_store(team: Team, undisturbed: Undisturbed, figures: Figures) -> None:
    job = in_training(team, "all-lost")
    bound = steps_within(job, 5)
    wound = strike(job, figures)
    force_delete(job, *job.live_pods())
    account = survived(wound, undisturbed, disruptions=1, replaced=2, max_lost_steps=bound)
    assert account.recoveries[0]["resumedStep"] > 0


@pytest.mark.fault(16)
def test_a_member_killed_for_its_memory_goes_on_with_less(
    team: Team, undisturbed: Undisturbed, figures: Figures, nodes_under_control: Cluster
) -> None:
    job = in_training(team, "out-of-memory", resources=SMALL_LIMIT, training={**SHORT, "gradientCheckpointing": False})
    victim = job.live_pods()[-1]
    wound = strike(job, figures)
    with nodes_under_control.memory_hog(victim["spec"]["nodeName"], victim["metadata"]["uid"]):
        account = survived(wound, undisturbed, crashes=1, max_lost_steps=1)
    assert account.recoveries[0]["failureClass"] == "OutOfMemory"
    assert account.tells("MemberLost", victim["metadata"]["name"], "more memory than its limit")
    assert account.status["pinned"]["overrides"]["gradientCheckpointing"] is True
