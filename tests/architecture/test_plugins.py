"""A run of tests that ends in time: no test begins late, a failure counts, and what was not reached is not counted as passed."""

import time
from types import SimpleNamespace

import pytest
from tests import plugins


class Terminal:
    def __init__(self):
        self.lines = []

    def write_line(self, line, **markup):
        self.lines.append(line)


def an_interrupted_session(num_failed):
    return SimpleNamespace(exitstatus=pytest.ExitCode.INTERRUPTED, testsfailed=num_failed)


def test_no_test_begins_after_the_end():
    with pytest.raises(pytest.skip.Exception, match=plugins.NOT_REACHED):
        plugins.InTime(time.time() - 1).pytest_runtest_setup()
    plugins.InTime(time.time() + 60).pytest_runtest_setup()


@pytest.mark.parametrize(("num_failed", "status"), [(0, pytest.ExitCode.OK), (1, pytest.ExitCode.TESTS_FAILED)])
def test_an_interrupted_run_fails_by_what_had_failed(num_failed, status, monkeypatch):
    signals = []
    monkeypatch.setattr(plugins.os, "kill", lambda pid, number: signals.append(number))
    terminal = Terminal()
    watch = plugins.Interrupts(terminal, ends=float(10**9))
    deadline = time.monotonic() + 60
    while not signals and time.monotonic() < deadline:
        time.sleep(0.01)
    session = an_interrupted_session(num_failed)
    watch.pytest_sessionfinish(session)
    assert session.exitstatus == status
    watch.pytest_terminal_summary()
    assert any("NOT RUN TO THE END" in line for line in terminal.lines)


def test_an_interruption_by_a_person_stays_one():
    watch = plugins.Interrupts(Terminal(), ends=time.time() + 10**6)
    session = an_interrupted_session(0)
    watch.pytest_sessionfinish(session)
    assert session.exitstatus == pytest.ExitCode.INTERRUPTED


def test_what_was_not_reached_is_told_by_file_and_number():
    terminal = Terminal()
    watch = plugins.Interrupts(terminal, ends=time.time() + 10**6)
    for name in "ab":
        skipped = SimpleNamespace(skipped=True, longrepr=("", 1, f"Skipped: {plugins.NOT_REACHED}"), nodeid=f"tests/x.py::test_{name}")
        watch.pytest_runtest_logreport(skipped)
    watch.pytest_terminal_summary()
    assert terminal.lines == ["NOT RUN, the time was over: 2 tests of tests/x.py"]


def test_only_a_standstill_since_the_test_began_lets_it_run_again():
    watch = plugins.Standstill()
    watch._worst_seconds = plugins.STANDSTILL_SECONDS + 10**6
    assert watch.was_seen()
    watch.pytest_runtest_logstart()
    assert watch._worst_seconds < plugins.STANDSTILL_SECONDS + 10**6
    marks = []
    watch.pytest_collection_modifyitems([SimpleNamespace(add_marker=marks.append)])
    assert marks[0].kwargs["condition"]() == watch.was_seen()
