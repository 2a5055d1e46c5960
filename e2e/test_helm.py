"""Uninstalling the chart touches neither training nor the jobs; installing it again picks them up."""

from e2e.fixtures import Product
from e2e.product import Team, wait_until


def test_training_survives_uninstall_and_the_next_install_picks_it_up(team: Team, product: Product) -> None:
    job = team.submit("reinstalled", training={"epochs": 4, "globalBatchSize": 8, "maxSequenceLength": 256, "precision": "fp32"})
    job.wait_phase("Training")
    before = {pod["metadata"]["uid"] for pod in job.live_pods()}
    product.uninstall()
    try:
        wait_until("no operator", lambda: not product.operator_pods(), deadline_seconds=90)
        assert {pod["metadata"]["uid"] for pod in job.live_pods()} == before
        assert job.object["metadata"]["name"] == "reinstalled"
    finally:
        product.install()
    status = job.wait_complete()
    assert {pod["metadata"]["uid"] for pod in job.pods()} <= before
    assert status["restarts"]["crashes"] == 0
