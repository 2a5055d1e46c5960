"""Shows a local run: a live table on a terminal, plain lines elsewhere. It only draws; it asks nobody and starts no thread."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from finetune_operator.decide.answers.decision import Event
from finetune_operator.local.view import RunView, render_line, render_seconds
from finetune_operator.times import LINE_EVERY_SECONDS, REDRAW_SECONDS

_BAR_WIDTH = 24
_PHASE_STYLES = {"Complete": "bold green", "Failed": "bold red", "Training": "cyan"}


class Screen(Protocol):
    """Told of everything that may be shown; decides what is."""

    def show(self, view: RunView) -> None: ...

    def tell(self, event: Event, at: datetime) -> None: ...

    def close(self) -> None: ...


async def redraw(screen: Screen, look: Callable[[], RunView]) -> None:
    """Show what there is to see, again and again, until cancelled."""
    while True:
        screen.show(look())
        await asyncio.sleep(REDRAW_SECONDS)


def render_event(event: Event, at: datetime) -> str:
    mark = "!" if event.type == "Warning" else " "
    return f"{at.astimezone():%H:%M:%S} {mark} {event.reason}: {event.message}"


class LiveScreen:
    """A table that is redrawn in place; warnings scroll above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=False, redirect_stdout=False, redirect_stderr=False)
        self._live.start()

    def show(self, view: RunView) -> None:
        self._live.update(render_table(view), refresh=True)

    def tell(self, event: Event, at: datetime) -> None:
        if event.type == "Warning":
            self._live.console.print(Text(render_event(event, at), style="yellow"))

    def close(self) -> None:
        self._live.stop()


def render_table(view: RunView) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("JOB", "PHASE", "NODES", "STEP", "", "LOSS", "ETA", "RESTARTS"):
        table.add_column(column, no_wrap=True)
    steps = f"{view.step}/{view.total_steps}" if view.total_steps else "-"
    bar = ProgressBar(total=max(view.total_steps, 1), completed=view.step, width=_BAR_WIDTH)
    table.add_row(
        view.name,
        Text(view.phase, style=_PHASE_STYLES.get(view.phase, "")),
        view.nodes or "-",
        steps,
        bar,
        "-" if view.loss is None else f"{view.loss:.4f}",
        render_seconds(view.eta_seconds),
        str(view.restarts),
    )
    return Group(table, Text(view.last_event, style="dim", overflow="ellipsis", no_wrap=True))


class PlainScreen:
    """Lines: every event, every change of phase, and where training stands at most every few seconds."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._write, self._clock = write, clock
        self._shown: RunView | None = None
        self._shown_at = float("-inf")

    def show(self, view: RunView) -> None:
        before, now = self._shown, self._clock()
        is_other_phase = before is None or before.phase != view.phase
        has_moved = before is None or (before.step, before.nodes) != (view.step, view.nodes)
        if is_other_phase or (has_moved and now - self._shown_at >= LINE_EVERY_SECONDS):
            self._write(render_line(view))
            self._shown, self._shown_at = view, now

    def tell(self, event: Event, at: datetime) -> None:
        self._write(render_event(event, at))

    def close(self) -> None:
        """Nothing is left to draw."""
