"""The command behind `finetune run`: reads and checks the file, runs the job before the user's eyes, sums up. Decides nothing about it."""

import asyncio
import contextlib
import signal
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from rich.console import Console

from finetune_operator.api.check_document import FileRefused, error_lines, read_file
from finetune_operator.api.job import FineTuneJob
from finetune_operator.api.rules import parse_job, warnings
from finetune_operator.decide.answers.decision import Event
from finetune_operator.local.folders import FolderInUse, RunFolders, make_folders
from finetune_operator.local.jobs import read_stored
from finetune_operator.local.local_run import LocalRun, SystemClock
from finetune_operator.local.prepare import OtherRun, change_document, continue_job, identify
from finetune_operator.local.screen import LiveScreen, PlainScreen, Screen, redraw, render_event
from finetune_operator.local.summary import render_summary
from finetune_operator.local.view import view_run
from finetune_operator.times import INTERRUPT_SAVE_SECONDS

COMPLETE, FAILED, INVALID, INTERRUPTED = 0, 1, 2, 130
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The command line, parsed. `work` None: a fresh folder in the user's cache."""

    file: Path
    num_members: int | None = None
    store: Path | None = None
    work: Path | None = None
    keeps_scratch: bool = False
    is_plain: bool = False


def run_file(options: RunOptions, environment: Mapping[str, str]) -> int:
    """The exit code. What is wrong with the file goes to stderr, in the words of `finetune validate`."""
    now = SystemClock().now()
    try:
        job = identify(read_job(options), uid=str(uuid.uuid4()), now=now)
    except FileRefused as refusal:
        sys.stderr.write(f"{refusal}\n")
        return INVALID
    for warning in warnings(job):
        sys.stderr.write(f"{options.file}: warning: {warning}\n")
    work = options.work or default_work_folder(job, now, environment)
    try:
        folders = make_folders(work)
        job = continue_job(job, read_stored(folders.job))
    except (OtherRun, FolderInUse, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        sys.stderr.write(f"--work-dir {work}: {why}; choose another folder\n")
        return INVALID
    goes_on = f", continuing {job.metadata.name} {job.metadata.uid}" if job.status.last_serial else ""
    sys.stdout.write(f"work folder {folders.work}{goes_on}\n")
    try:
        code = asyncio.run(_run(job, folders, options, environment))
    except OSError as error:
        folders.remove_scratch()
        sys.stderr.write(f"work folder {folders.work}: {error.strerror}; make room, or choose another folder with --work-dir\n")
        return FAILED
    if code == INTERRUPTED:
        sys.stdout.write(f"continue with: finetune run {options.file} --work-dir {folders.work}\n")
    return code


def read_job(options: RunOptions) -> FineTuneJob:
    """The only job of the file, with the changes of the command line. Raises FileRefused with all lines for the user."""
    documents = read_file(options.file)
    if len(documents) > 1:
        raise FileRefused(f"{options.file}: holds {len(documents)} documents; wanted one FineTuneJob")
    changed = replace(documents[0], value=change_document(documents[0].value, num_members=options.num_members, store=options.store))
    errors = tuple(error_lines(options.file, changed, is_local=True))
    if errors:
        raise FileRefused("\n".join(errors))
    return parse_job(changed.value)


def default_work_folder(job: FineTuneJob, now: datetime, environment: Mapping[str, str]) -> Path:
    cache = environment.get("XDG_CACHE_HOME")
    parent = Path(cache) if cache else Path.home() / ".cache"
    return parent / "finetune" / "runs" / f"{job.metadata.name}-{now:%Y%m%d-%H%M%S}-{job.metadata.uid[:4]}"


async def _run(job: FineTuneJob, folders: RunFolders, options: RunOptions, environment: Mapping[str, str]) -> int:
    console = Console()
    is_live = console.is_terminal and not options.is_plain
    screen: Screen = LiveScreen(console) if is_live else PlainScreen(_write_line, time.monotonic)
    last_event = ""

    def hear(event: Event, at: datetime) -> None:
        nonlocal last_event
        last_event = render_event(event, at)
        screen.tell(event, at)

    stops: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in _STOP_SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stops.put_nowait, number)
    run = LocalRun(job, folders=folders, environment=environment, on_event=hear, keeps_scratch=options.keeps_scratch)
    drawing = asyncio.create_task(redraw(screen, lambda: view_run(run.job, run.sessions, last_event)))
    try:
        async with run:
            await _until_over(run, stops)
    finally:
        drawing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await drawing
        screen.show(view_run(run.job, run.sessions, last_event))
        screen.close()
    sys.stdout.write("\n" + render_summary(run.job, folders))
    if not run.status.is_ended:
        return INTERRUPTED
    return COMPLETE if run.status.is_true("Complete") else FAILED


async def _until_over(run: LocalRun, stops: "asyncio.Queue[signal.Signals]") -> None:
    """Until the job has ended, or was saved after a first signal, or at once after a second one."""
    ending = asyncio.create_task(run.wait_end())
    first = asyncio.create_task(stops.get())
    await asyncio.wait((ending, first), return_when=asyncio.FIRST_COMPLETED)
    if ending.done():
        first.cancel()
        ending.result()
        return
    ending.cancel()
    sys.stderr.write("\nSaving. Press Ctrl-C again to stop without saving.\n")
    run.suspend()
    ended = run.wait_until("the end of the members", lambda run: not run.members, deadline_seconds=INTERRUPT_SAVE_SECONDS)
    saved = asyncio.create_task(ended)
    second = asyncio.create_task(stops.get())
    await asyncio.wait((saved, second), return_when=asyncio.FIRST_COMPLETED)
    for task in (saved, second):
        task.cancel()


def _write_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
