"""`finetune run`: one job on this machine, from its YAML to an exit code. Light to import: what it runs is loaded when it runs.

Exit codes: 0 Complete, 1 Failed, 2 the YAML is invalid, 130 interrupted.
"""

import argparse
import os
from pathlib import Path

from finetune_operator.local.arguments import whole_number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="YAML with one FineTuneJob")
    parser.add_argument("--members", type=whole_number(1, 256), metavar="N", help="train with N members, whatever resources.nodes says")
    parser.add_argument(
        "--store", type=Path, metavar="DIR", help="put checkpoints and adapter into folders below DIR instead of their places"
    )
    parser.add_argument(
        "--work-dir", type=Path, metavar="DIR", help="keep status and logs here (default: a fresh folder in the user's cache)"
    )
    parser.add_argument("--keep", action="store_true", help="keep the members' scratch files, to inspect them")
    parser.add_argument("--plain", action="store_true", help="print lines instead of a live table")


def run_from_arguments(arguments: argparse.Namespace) -> int:
    """Read, check, run, sum up."""
    from finetune_operator.local.command import RunOptions, run_file

    options = RunOptions(
        file=arguments.file,
        num_members=arguments.members,
        store=arguments.store,
        work=arguments.work_dir,
        keeps_scratch=arguments.keep,
        is_plain=arguments.plain,
    )
    return run_file(options, os.environ)
