"""Writes every generated file, or with --check fails when one differs from what would be written."""

import argparse
import sys
from pathlib import Path

import import_graph
import rules_page
from examples import make_rows
from tests.faults import fault_table

from finetune_operator.api import generated

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """0 when everything is written or nothing differs, 1 with the list of differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail on any difference")
    arguments = parser.parse_args()
    sources = (generated, import_graph, rules_page, fault_table)
    files = {name: text for source in sources for name, text in source.generated_files().items()}
    files[make_rows.ROWS.relative_to(ROOT).as_posix()] = make_rows.render_rows()
    differing = [name for name, text in sorted(files.items()) if not (ROOT / name).exists() or (ROOT / name).read_text() != text]
    if arguments.check:
        sys.stdout.writelines(f"{name} is not what `make generate` writes\n" for name in differing)
        return 1 if differing else 0
    for name in differing:
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_text(files[name])
        sys.stdout.write(f"wrote {name}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
