"""A real Prometheus holds step, loss, tokens/s and phase of a job, and loses them when the job is deleted."""

from functools import partial

from e2e.fixtures import PrometheusApi
from e2e.product import Team, wait_until

SERIES = ("finetune_job_step", "finetune_job_loss", "finetune_job_tokens_per_second", "finetune_job_status_phase")


def test_prometheus_holds_a_jobs_series_until_it_is_deleted(team: Team, prometheus: PrometheusApi) -> None:
    job = team.submit("observed")
    job.wait_complete()
    selector = f'{{namespace="{team.kubectl.namespace}",name="observed"}}'
    for series in SERIES:
        wait_until(f"{series} in Prometheus", partial(prometheus.query, series + selector), deadline_seconds=30)
    job.delete()
    wait_until("no series of a deleted job", lambda: not prometheus.query(f"finetune_job_step{selector}"), deadline_seconds=60)
