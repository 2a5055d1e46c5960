"""What pytest does here on machines that are slow, or that stand still for seconds: it tells at once, looks again, and ends in time.

None of it lets a test pass that fails: what was looked at again and what was not reached are told at the end, by name and by number.
"""

import os
import signal
import threading
import time
from collections import Counter

import hypothesis
import pytest

# Epoch seconds at which no further test begins; unset: all tests run, however long they take.
ENDS_VARIABLE = "FINETUNE_TESTS_END"
# What began in time may end; then the run is interrupted, so that what was found is still told.
GRACE_SECONDS = 240.0
NOT_REACHED = "not reached: the time of this run was over"
NUM_LINES = 40
# A wait of a test is some seconds at the shortest. A machine that runs wakes a sleeper within milliseconds.
STANDSTILL_SECONDS = 0.5
NUM_LOOKS_MORE = 2
_BEAT_SECONDS = 0.05


class AtOnce:
    """Tells a failure when it happens: a run that is ended from outside has still named it."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal
        self._again: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        again = str(report.outcome) == "rerun"  # a word of rerunfailures
        if again:
            self._again[report.nodeid] += 1
        if again or report.failed:
            self._terminal.ensure_newline()
            what = "FAILED WHILE THE MACHINE STOOD STILL, RUNS AGAIN:" if again else "FAILED"
            self._terminal.write_line(f"{what} {report.nodeid} ({report.when}, {report.duration:.1f} s)", red=True)
            for line in report.longreprtext.splitlines()[-NUM_LINES:]:
                self._terminal.write_line(f"    {line}")

    def pytest_terminal_summary(self) -> None:
        for nodeid, times in sorted(self._again.items()):
            self._terminal.write_line(f"RAN AGAIN {times} times, the machine had stood still: {nodeid}", yellow=True)


class Standstill:
    """Runs a test again that failed while the machine stood still: its waits were over before anybody could answer."""

    def __init__(self) -> None:
        self._worst_seconds = 0.0
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while True:
            began = time.monotonic()
            time.sleep(_BEAT_SECONDS)
            self._worst_seconds = max(self._worst_seconds, time.monotonic() - began - _BEAT_SECONDS)

    def pytest_runtest_logstart(self) -> None:
        self._worst_seconds = 0.0

    def was_seen(self) -> bool:
        return self._worst_seconds >= STANDSTILL_SECONDS

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            item.add_marker(pytest.mark.flaky(reruns=NUM_LOOKS_MORE, condition=self.was_seen))


class InTime:
    """No test begins after the end of the time, and those that were not reached are named."""

    def __init__(self, ends: float) -> None:
        self._ends = ends

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        if time.time() >= self._ends:
            pytest.skip(NOT_REACHED)


class Interrupts:
    """The run as a whole ends in time: interrupted, if what began in time does not end. Failures until then count."""

    def __init__(self, terminal: pytest.TerminalReporter, ends: float) -> None:
        self._terminal = terminal
        self._not_reached: Counter[str] = Counter()
        self._overran = False
        timer = threading.Timer(max(0.0, ends + GRACE_SECONDS - time.time()), self._interrupt)
        timer.daemon = True
        timer.start()

    def _interrupt(self) -> None:
        self._overran = True
        os.kill(os.getpid(), signal.SIGINT)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and isinstance(report.longrepr, tuple) and report.longrepr[2].endswith(NOT_REACHED):
            self._not_reached[report.nodeid.partition("::")[0]] += 1

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._overran and session.exitstatus == pytest.ExitCode.INTERRUPTED:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED if session.testsfailed else pytest.ExitCode.OK

    def pytest_terminal_summary(self) -> None:
        if self._overran:
            self._terminal.write_line(
                "NOT RUN TO THE END: interrupted, the time of this run was over; what is not counted above did not run", red=True
            )
        for path, number in sorted(self._not_reached.items()):
            self._terminal.write_line(f"NOT RUN, the time was over: {number} tests of {path}", red=True)


def register(config: pytest.Config) -> None:
    """By every folder of tests, of which a run may have more than one."""
    if config.pluginmanager.has_plugin("in-time") or config.pluginmanager.has_plugin("at-once"):
        return
    # What hypothesis calls unhealthy is mostly a matter of seconds, and those are the machine's.
    hypothesis.settings.register_profile("any machine", deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
    hypothesis.settings.load_profile("any machine")
    ends = float(os.environ.get(ENDS_VARIABLE, "inf"))
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    is_worker = hasattr(config, "workerinput")
    if terminal is not None and not is_worker:
        config.pluginmanager.register(AtOnce(terminal), "at-once")
        if ends < float("inf"):
            config.pluginmanager.register(Interrupts(terminal, ends), "interrupts")
    # With workers it is they who run the tests.
    if is_worker or not getattr(config.option, "numprocesses", None):
        config.pluginmanager.register(Standstill(), "standstill")
        config.pluginmanager.register(InTime(ends), "in-time")
