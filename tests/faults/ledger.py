"""What became of every fault that was done on purpose: one line a test, written by the tests here and by those of e2e/.

A test names its fault and tells its figures:

    @pytest.mark.fault(2)
    def test_a_member_whose_agent_is_killed_is_replaced(.., figures):
        ...
        figures.tell(seconds=7.4, lost_steps=0, same_bytes=True)

Its conftest.py takes the two names that pytest needs: `from tests.faults.ledger import figures, pytest_runtest_makereport`.
Whether it passed is pytest's word. A test that passes without telling its figures fails; a skipped one leaves no line.
`python -m tests.faults.ledger fold` puts the lines into docs/faults.json, from which `make generate` writes the table of docs/faults.md.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINES = ROOT / "build" / "faults.jsonl"
KEPT = ROOT / "docs" / "faults.json"
PLACES = ("local", "cluster")
NUM_FAULTS = 36
_passed = pytest.StashKey[bool]()
_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, kw_only=True)
class Result:
    """One test of one fault. `seconds` to the next optimizer step; `same_bytes` is None only where no adapter is expected."""

    fault: int
    title: str
    where: str
    seconds: float | None
    lost_steps: int | None
    same_bytes: bool | None
    passed: bool

    @property
    def key(self) -> tuple[int, str, str]:
        """The same for each run of the same test."""
        return self.fault, self.where, self.title


@dataclass(frozen=True, kw_only=True)
class Told:
    """Figures of one disturbed job."""

    seconds: float | None
    lost_steps: int | None
    same_bytes: bool | None


@dataclass(frozen=True)
class Figures:
    """What a test tells. Told several times, the worst of each counts."""

    told: list[Told] = field(default_factory=list)

    def tell(self, *, seconds: float | None, lost_steps: int | None, same_bytes: bool | None) -> None:
        """`seconds` to the next step (make before break: the pause between two steps); None where there is no next step to wait for."""
        self.told.append(Told(seconds=seconds, lost_steps=lost_steps, same_bytes=same_bytes))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Keeps how the test itself went for the fixture's end; a skipped test keeps nothing."""
    report: pytest.TestReport = yield  # type: ignore[assignment]  # pytest sends the report in
    if report.when == "call" and not report.skipped:
        item.stash[_passed] = report.passed
    return report  # type: ignore[return-value]


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Iterator[Figures]:
    """Of a test with the marker `fault(number)`."""
    marker = request.node.get_closest_marker("fault")
    assert marker is not None, "a test with figures says which fault they belong to: @pytest.mark.fault(number)"
    found = Figures()
    yield found
    passed = request.node.stash.get(_passed, None)
    if passed is None:
        return
    assert found.told or not passed, "the test passed but told no figures"
    where = "cluster" if request.node.path.is_relative_to(ROOT / "e2e") else "local"
    record(result_of(marker.args[0], title_of(request.node.name), where, found, passed=passed), LINES)


def title_of(test_name: str) -> str:
    """The promise as its test names it."""
    return test_name.removeprefix("test_").replace("_", " ")


def result_of(fault: int, title: str, where: str, figures: Figures, *, passed: bool) -> Result:
    assert 1 <= fault <= NUM_FAULTS, f"fault {fault} is none of 1 to {NUM_FAULTS}"
    return Result(
        fault=fault,
        title=title,
        where=where,
        seconds=worst(round(told.seconds, 2) for told in figures.told if told.seconds is not None),
        lost_steps=worst(told.lost_steps for told in figures.told if told.lost_steps is not None),
        same_bytes=all_same(told.same_bytes for told in figures.told),
        passed=passed,
    )


def worst(numbers: Iterable[_Number]) -> _Number | None:
    return max(numbers, default=None)


def all_same(answers: Iterable[bool | None]) -> bool | None:
    """None where nobody could say."""
    known = [answer for answer in answers if answer is not None]
    return all(known) if known else None


def record(result: Result, lines: Path) -> None:
    """Append one line; safe beside other writers, because a short line is written at once."""
    lines.parent.mkdir(parents=True, exist_ok=True)
    with lines.open("a") as file:
        file.write(json.dumps(asdict(result)) + "\n")


def read_kept(kept: Path = KEPT) -> tuple[Result, ...]:
    return tuple(Result(**entry) for entry in json.loads(kept.read_text())) if kept.exists() else ()


def read_lines(lines: Path = LINES) -> tuple[Result, ...]:
    return tuple(Result(**json.loads(line)) for line in lines.read_text().splitlines()) if lines.exists() else ()


def fold(lines: Path = LINES, kept: Path = KEPT) -> tuple[Result, ...]:
    """Put the lines into the kept results, the newest of each test in place of its older ones."""
    newest = {result.key: result for result in (*read_kept(kept), *read_lines(lines))}
    results = tuple(newest[key] for key in sorted(newest))
    keep(results, kept)
    return results


def forget(where: str, lines: Path = LINES, kept: Path = KEPT) -> None:
    """Before a whole run: no result of an older one stays, those of tests that are gone included."""
    lines.unlink(missing_ok=True)
    keep(tuple(result for result in read_kept(kept) if result.where != where), kept)


def keep(results: tuple[Result, ...], kept: Path) -> None:
    entries = ",\n".join(f" {json.dumps(asdict(result))}" for result in results)
    kept.write_text(f"[\n{entries}\n]\n" if entries else "[]\n")


def main() -> int:
    parser = argparse.ArgumentParser(description="Keep the results of the fault tests in docs/faults.json.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fold", help="put what the tests told into docs/faults.json")
    commands.add_parser("forget", help="drop all results of one place before a whole run").add_argument("where", choices=PLACES)
    arguments = parser.parse_args()
    if arguments.command == "forget":
        forget(arguments.where)
        return 0
    failed = [result for result in fold() if not result.passed]
    sys.stdout.writelines(f"fault {result.fault} ({result.where}) failed: {result.title}\n" for result in failed)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
