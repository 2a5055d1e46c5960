"""The ledger tells what the tests of faults found, no better and no worse."""

import os
import subprocess
import sys

import pytest
from tests.faults.fault_table import BEGIN, END, render_row, render_run, with_table
from tests.faults.ledger import ROOT, Figures, Result, fold, forget, read_kept, read_lines, record, result_of, title_of


def a_result(**changes) -> Result:
    healthy = {"fault": 2, "title": "killed", "where": "local", "seconds": 1.0, "lost_steps": 0, "same_bytes": True, "passed": True}
    return Result(**healthy | changes)


@pytest.fixture
def files(tmp_path):
    return tmp_path / "build" / "lines.jsonl", tmp_path / "kept.json"


def test_the_worst_of_what_a_test_tells_counts():
    figures = Figures()
    figures.tell(seconds=0.512, lost_steps=1, same_bytes=True)
    figures.tell(seconds=3.0, lost_steps=0, same_bytes=False)
    figures.tell(seconds=None, lost_steps=None, same_bytes=None)
    found = result_of(1, "t", "local", figures, passed=True)
    assert (found.seconds, found.lost_steps, found.same_bytes) == (3.0, 1, False)


def test_where_no_adapter_is_expected_nobody_says_that_bytes_are_the_same():
    figures = Figures()
    figures.tell(seconds=None, lost_steps=0, same_bytes=None)
    assert result_of(36, "t", "cluster", figures, passed=True).same_bytes is None


def test_a_newer_result_of_a_test_takes_the_place_of_the_older(files):
    lines, kept = files
    record(a_result(passed=False), lines)
    fold(lines, kept)
    record(a_result(), lines)
    record(a_result(where="cluster"), lines)
    assert fold(lines, kept) == read_kept(kept) == (a_result(where="cluster"), a_result())


def test_forgetting_one_place_keeps_the_other(files):
    lines, kept = files
    record(a_result(), lines)
    record(a_result(where="cluster"), lines)
    fold(lines, kept)
    forget("local", lines, kept)
    assert fold(lines, kept) == (a_result(where="cluster"),)


def test_a_title_is_the_promise_of_the_test():
    assert title_of("test_a_node_is_found[zeros]") == "a node is found[zeros]"


@pytest.mark.parametrize(
    ("results", "row"),
    [
        ([], "not run | | | | |"),
        ([{}, {"seconds": 2.0, "where": "cluster"}], "2 of 2 passed | local, cluster | 2.0 s | 0 | yes |"),
        ([{}, {"passed": False, "same_bytes": None}], "**1 of 2 FAILED** | local | 1.0 s | 0 | yes |"),
        ([{"same_bytes": False}, {}], "2 of 2 passed | local | 1.0 s | 0 | **NO** |"),
        ([{"seconds": None, "lost_steps": None, "same_bytes": None}], "1 of 1 passed | local | - | - | - |"),
    ],
)
def test_a_row_says_the_worst_of_its_fault(results, row):
    assert render_row(2, [a_result(**changes) for changes in results]) == f"| 2 | `kill -9` of the agent, PID 1 | {row}\n"


def test_the_words_around_the_table_stay():
    begin, end = BEGIN.format("results"), END.format("results")
    assert with_table(f"before\n{begin}old\n{end}\nafter\n", "results", "new\n") == f"before\n{begin}new\n{end}\nafter\n"


def test_a_run_of_random_faults_says_how_many_jobs_were_harmed():
    run = {"seed": 7, "minutes": 19.6, "jobs": 5, "faults": {"worker killed": 3}, "p50": 0.6, "p95": 7.04, "most_lost_steps": 1}
    row = render_run("kills", run | {"goodput": 0.913, "jobs_with_other_bytes_or_samples": 2})
    assert row == "| kills | 7 | 20 | 5 | 3: 3 worker killed | 0.6 s / 7.0 s | 1 | 91% | **2 jobs** |\n"


CONFTEST = """
from pathlib import Path
from tests.faults import ledger
from tests.faults.ledger import figures, pytest_runtest_makereport
ledger.LINES = Path(__file__).parent / "lines.jsonl"
"""
TESTS = """
import pytest

@pytest.mark.fault(5)
def test_it_holds(figures):
    figures.tell(seconds=1.5, lost_steps=0, same_bytes=True)

@pytest.mark.fault(6)
def test_it_breaks(figures):
    figures.tell(seconds=2.5, lost_steps=0, same_bytes=True)
    assert False

@pytest.mark.fault(7)
def test_it_is_skipped(figures):
    pytest.skip("no cluster")

@pytest.mark.fault(8)
def test_it_is_silent(figures):
    pass
"""


def test_pytest_says_what_passed(tmp_path):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_faults.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = fault(number): f\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""}
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert "1 failed, 2 passed, 1 skipped, 1 error" in said.stdout, said.stdout
    assert [(result.fault, result.passed, result.seconds) for result in read_lines(tmp_path / "lines.jsonl")] == [
        (5, True, 1.5),
        (6, False, 2.5),
    ]
