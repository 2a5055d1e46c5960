"""What stands on the screen when a local run is over: how it ended, what became of the loss, and where everything lies. Pure."""

from collections.abc import Iterator

from finetune_contract.plurals import counted
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.status import ProgressEntry, Recovery
from finetune_operator.local.folders import RunFolders


def render_summary(job: FineTuneJob, folders: RunFolders) -> str:
    """Lines of "name value"; ends with a newline."""
    rows = list(_rows(job, folders))
    width = max(len(name) for name, _ in rows)
    return "".join(f"{name:<{width}}  {value}\n" for name, value in rows)


def _rows(job: FineTuneJob, folders: RunFolders) -> Iterator[tuple[str, str]]:
    status = job.status
    ending = status.condition("Complete") or status.condition("Failed")
    yield "result", "interrupted" if ending is None else f"{ending.type}: {ending.message}"
    if status.output is not None:
        yield "adapter", _local(status.output.uri)
        yield "state hash", f"sha256:{status.output.sha256}"
    if status.progress is not None:
        yield "loss", _losses(status.progress)
        yield "steps", f"{status.progress.step} of {status.progress.total_steps}, {counted(status.progress.tokens_total, 'token')}"
    if status.restarts.total:
        kinds = f"{counted(status.restarts.disruptions, 'disruption')}, {counted(status.restarts.crashes, 'crash', 'crashes')}"
        yield "restarts", f"{status.restarts.total} ({kinds})"
    for recovery in status.recoveries:
        yield "recovery", _recovery(recovery)
    yield "status", str(folders.status)
    yield "events", str(folders.events)
    yield "logs", str(folders.logs)


def _losses(progress: ProgressEntry) -> str:
    first = "" if progress.first_loss is None else f"{progress.first_loss:.4f} -> "
    held_out = "" if progress.eval_loss is None else f", on held-out rows {progress.eval_loss:.4f}"
    return f"{first}{progress.loss:.4f}{held_out}"


def _recovery(recovery: Recovery) -> str:
    where = "" if recovery.resumed_step is None else f", resumed at step {recovery.resumed_step}"
    took = "" if recovery.total_seconds is None else f" after {recovery.total_seconds:.1f} s"
    return f"{recovery.failure_class}: {recovery.reason}{where}{took}"


def _local(uri: str) -> str:
    return uri.removeprefix("file://")
