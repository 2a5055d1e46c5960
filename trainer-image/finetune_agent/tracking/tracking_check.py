"""What can be known of the tracker before a step is made: is the package here, is there a key. It asks no server."""

import netrc
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from finetune_agent.stores.credentials import CredentialFiles
from finetune_agent.stores.object_store import StoreUnavailable
from finetune_agent.stores.reachable import check_reachable
from finetune_contract.config import TrackingConfig
from finetune_contract.failures import FailureClass, TrainingError

_PUBLIC = "https://api.wandb.ai"


def check_tracking(
    tracking: TrackingConfig, folder: Path | None, environment: Mapping[str, str], *, allowed_endpoints: Collection[str] = ()
) -> None:
    """Raises TrainingError in the user's words; StoreUnavailable while the mounted Secret is not there yet."""
    if "wandb" not in tracking.report_to:
        return
    if tracking.endpoint is not None:  # before anything is looked at: the key of the Secret is sent there
        check_reachable(tracking.endpoint, field="spec.tracking.endpoint", allowed=allowed_endpoints)
    if find_spec("wandb") is None:
        advice = "install finetune-operator[tracking], use the trainer image of this project, or remove reportTo"
        raise TrainingError(FailureClass.USER_ERROR, f"spec.tracking.reportTo: the package wandb is not installed here; {advice}")
    if environment.get("WANDB_MODE") in {"offline", "disabled", "dryrun"}:
        return
    if folder is None:
        if not environment.get("WANDB_API_KEY") and not _has_netrc_entry(tracking, environment):
            advice = "set WANDB_API_KEY, run `wandb login`, or set WANDB_MODE=offline"
            raise TrainingError(FailureClass.USER_ERROR, f"spec.tracking.reportTo: there is no key for wandb; {advice}")
        return
    names = [entry.name for entry in folder.iterdir() if not entry.name.startswith("..")] if folder.is_dir() else []
    if not names:
        raise StoreUnavailable("the Secret does not exist in this namespace, or it is empty")
    if not CredentialFiles(folder).read_tracking_key():
        what = f"the Secret has no WANDB_API_KEY; it has {', '.join(sorted(names))}"
        raise TrainingError(FailureClass.USER_ERROR, f"spec.tracking.secretName: {what}")


def _has_netrc_entry(tracking: TrackingConfig, environment: Mapping[str, str]) -> bool:
    host = urlsplit(tracking.endpoint or environment.get("WANDB_BASE_URL") or _PUBLIC).hostname
    file = Path(environment.get("NETRC") or Path(environment.get("HOME", "/")) / ".netrc")
    try:
        return netrc.netrc(str(file)).authenticators(str(host)) is not None
    except (OSError, netrc.NetrcParseError):
        return False
