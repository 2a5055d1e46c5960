"""Settings of the whole machine that a kubelet changes or the bridge needs, saved before and put back after."""

import json
from pathlib import Path

from e2e.harness.home import Home

FORWARDING = "net/ipv4/ip_forward"
# What the kubelet sets when it starts.
CHANGED_BY_KUBELET = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)


def save(home: Home) -> None:
    """Write the present values down, unless an earlier run, now crashed, did: then these are not the machine's own values."""
    file = _file(home)
    if file.exists():
        return
    names = [name for name in (FORWARDING, *CHANGED_BY_KUBELET) if _sysctl(name).exists()]
    file.write_text(json.dumps({name: _sysctl(name).read_text().strip() for name in names}))


def allow_forwarding() -> None:
    _sysctl(FORWARDING).write_text("1")


def restore(home: Home) -> None:
    file = _file(home)
    if not file.exists():
        return
    for name, value in json.loads(file.read_text()).items():
        if _sysctl(name).read_text().strip() != value:
            _sysctl(name).write_text(value)
    file.unlink()


def _file(home: Home) -> Path:
    return home.run / "sysctls.json"


def _sysctl(name: str) -> Path:
    return Path("/proc/sys") / name
