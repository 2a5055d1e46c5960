"""`python -m e2e.harness COMMAND`: the cluster by hand. `kubeconfig` and `status` only read; all else needs root."""

import argparse
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

from e2e.harness.cluster import Cluster, shown
from e2e.harness.home import Home, find_home
from e2e.harness.images import ImageBuilder
from e2e.harness.provider import choose_provider
from e2e.harness.session import Session, running_session
from e2e.harness.toolchain import ensure_toolchain


def up(home: Home, keep: bool) -> int:
    """Bring everything up and stay until interrupted; with --keep, leave it running, or refresh what runs already."""
    with running_session(home, keep=keep) as session:
        print_session(session)
        with suppress(KeyboardInterrupt):
            while not keep:
                signal.pause()
    return 0


def down(home: Home, _keep: bool) -> int:
    """End and remove everything that runs; caches stay."""
    with home.locked():
        choose_provider(home).down()
    return 0


def status(home: Home, _keep: bool) -> int:
    """Which daemons of which node run; exit code 1 if the cluster does not answer."""
    provider = choose_provider(home)
    if isinstance(provider, Cluster):
        sys.stdout.write(f"{shown(tuple(provider.nodes.values()))}\n")
    is_up = provider.is_up()
    sys.stdout.write("up\n" if is_up else "down\n")
    return 0 if is_up else 1


def kubeconfig(home: Home, _keep: bool) -> int:
    """Print the path for KUBECONFIG."""
    sys.stdout.write(f"{home.kubeconfig}\n")
    return 0


def images(home: Home, _keep: bool) -> int:
    """Build the two images, and print their names and sizes."""
    with home.locked():
        ensure_toolchain(home)
        builder = ImageBuilder(home)
        sys.stdout.write(builder.describe(builder.ensure()))
    return 0


def clean(home: Home, keep: bool) -> int:
    """`down`, and remove all caches too."""
    down(home, keep)
    shutil.rmtree(home.root)
    return 0


COMMANDS: dict[str, Callable[[Home, bool], int]] = {command.__name__: command for command in (up, down, status, kubeconfig, images, clean)}


def print_session(session: Session) -> None:
    sys.stdout.write(f"export KUBECONFIG={session.kubeconfig}\n")
    sys.stdout.write(f"export AWS_ENDPOINT_URL={session.s3.endpoint} AWS_REGION={session.s3.region}\n")
    sys.stdout.write(f"export AWS_ACCESS_KEY_ID={session.s3.access_key} AWS_SECRET_ACCESS_KEY={session.s3.secret_key}\n")
    sys.stdout.write(f"# {session.images.operator} {session.images.trainer}; Prometheus at {session.prometheus_url}\n")
    sys.stdout.flush()


def main() -> int:
    descriptions = "\n".join(f"  {name:10} {command.__doc__}" for name, command in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="python -m e2e.harness", description=descriptions, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--keep", action="store_true", help="with up: leave the cluster running, or use the one that runs")
    chosen = parser.parse_args()
    # As an exception, so that a cluster that is half up is taken away too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return COMMANDS[chosen.command](find_home(), chosen.keep)


if __name__ == "__main__":
    sys.exit(main())
