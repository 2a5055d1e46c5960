"""Gangs that do not fit together take turns; a suspended job saves, frees its pods and goes on later."""

from e2e.product import Job, Team, wait_until


def test_two_gangs_that_do_not_fit_together_run_one_after_the_other(team: Team, free_cpu: float) -> None:
    most_of_a_node = {"requests": {"cpu": f"{int(free_cpu * 1000 * 0.6)}m", "memory": "256Mi"}, "nodes": {"min": 2, "max": 2}}
    first = team.submit("gang-a", resources=most_of_a_node)
    first.wait_phase("Preparing", "Starting", "Training", deadline_seconds=60)
    second = team.submit("gang-b", resources=most_of_a_node)
    waiting = wait_until("gang-b to say why it waits", lambda: why_it_waits(second), deadline_seconds=60)
    assert "cpu" in waiting.lower() or "gang-a" in waiting
    first.wait_complete()
    second.wait_complete()


def why_it_waits(job: Job) -> str | None:
    admitted = job.condition("Admitted")
    return admitted["message"] if admitted and admitted["status"] != "True" else None


def test_suspend_saves_frees_the_pods_and_resume_goes_on(team: Team) -> None:
    job = team.submit("suspended")
    job.wait_phase("Training")
    wait_until("a commit", lambda: job.last_commit_step() > 0, deadline_seconds=60)
    job.kubectl.run("patch", "finetunejob", job.name, "--type=merge", "-p", '{"spec":{"suspend":true}}')
    job.wait_phase("Suspended", deadline_seconds=60)
    wait_until("no pods", lambda: not job.live_pods(), deadline_seconds=90)
    saved = job.last_commit_step()
    assert saved > 0
    assert job.is_true("Suspended")
    job.kubectl.run("patch", "finetunejob", job.name, "--type=merge", "-p", '{"spec":{"suspend":false}}')
    status = job.wait_complete()
    assert status["formation"]["resumedStep"] >= saved
