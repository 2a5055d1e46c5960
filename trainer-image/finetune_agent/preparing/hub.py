"""Models and data sets from a hub, through huggingface_hub (endpoint: its own HF_ENDPOINT). Only what training needs is fetched.

Which commit of the repository is meant is settled once, before the first byte, so that all files are of one commit.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from finetune_agent.preparing.in_place import refuse_no_model
from finetune_agent.preparing.model_files import is_model_file
from finetune_agent.preparing.row_files import choose_of_repository
from finetune_agent.stores.object_store import DISK_FULL, StoreRefused, StoreUnavailable
from finetune_agent.stores.reachable import check_reachable
from finetune_contract.keys import LeavesFolder, check_key
from finetune_contract.places import Place

# Of the HTTP library below the hub's, which is another one in other versions and whose errors are no OSError.
_NO_ANSWER: tuple[type[Exception], ...] = HfHubHTTPError.__bases__


@dataclass(frozen=True, kw_only=True)
class HubFiles:
    """Files of one commit of one repository. `kind` is the hub's word: "model" or "dataset"."""

    kind: str
    repository: str
    commit: str
    sizes: Mapping[str, int]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.sizes)

    @property
    def num_bytes(self) -> int:
        return sum(self.sizes.values())

    def only(self, names: Sequence[str]) -> "HubFiles":
        return replace(self, sizes={name: self.sizes[name] for name in names})


class Hub:
    """`token` is asked at each use; None leaves it to huggingface_hub's own chain. `allowed_endpoints`: see `reachable.py`."""

    def __init__(self, *, token: Callable[[], str | None], allowed_endpoints: Collection[str] = ()) -> None:
        self._token, self._allowed_endpoints = token, allowed_endpoints

    def find_model(self, place: Place, revision: str | None) -> HubFiles:
        repository = f"{place.container}/{place.path}"
        listed = self._find("model", repository, revision)
        refuse_no_model(f"hf://{repository}", listed.names)
        return listed.only([name for name in listed.names if is_model_file(name)])

    def find_rows(self, place: Place) -> HubFiles:
        """hf://OWNER/NAME with its training split, or hf://OWNER/NAME/FILE, /FOLDER or /PATTERN; files follow each other by name."""
        name, _, inside = place.path.partition("/")
        repository = f"{place.container}/{name}"
        listed = self._find("dataset", repository, None)
        chosen = choose_of_repository(listed.names, inside, uri=f"hf://{repository}")
        return listed.only(chosen)

    def download(self, found: HubFiles, name: str, folder: Path) -> Path:
        """Goes on where an earlier attempt stopped."""
        try:
            check_key(name)
        except LeavesFolder as error:
            raise StoreRefused(f"hf://{found.repository}: {error}") from error
        with _hub_errors(found.repository, found.commit):
            path = hf_hub_download(
                found.repository, name, repo_type=found.kind, revision=found.commit, local_dir=folder, token=self._token()
            )
        return Path(path)

    def _find(self, kind: str, repository: str, revision: str | None) -> HubFiles:
        check_reachable(constants.ENDPOINT, field="HF_ENDPOINT", allowed=self._allowed_endpoints)
        with _hub_errors(repository, revision):
            info = HfApi(token=self._token()).repo_info(repository, repo_type=kind, revision=revision, files_metadata=True)
        sizes = {entry.rfilename: entry.size or 0 for entry in info.siblings or ()}
        return HubFiles(kind=kind, repository=repository, commit=info.sha, sizes=sizes)


@contextmanager
def _hub_errors(repository: str, revision: str | None) -> Iterator[None]:
    endpoint = constants.ENDPOINT
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise StoreRefused(f"hf://{repository} cannot be fetched: HF_HUB_OFFLINE is set; unset it, or use file:// or s3://") from error
    except GatedRepoError as error:
        advice = "accept its terms on the hub and put a token of that account as HF_TOKEN into the Secret"
        raise StoreRefused(f"hf://{repository} is gated; {advice}") from error
    except RevisionNotFoundError as error:
        raise StoreRefused(f'hf://{repository} has no revision "{revision}"; wanted a branch, a tag or a commit') from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        advice = "check the name; for a private one put a token as HF_TOKEN into the Secret"
        raise StoreRefused(f"hf://{repository} does not exist at {endpoint}, or the token may not see it; {advice}") from error
    except LocalEntryNotFoundError as error:  # how huggingface_hub says that the hub could not be reached
        raise StoreUnavailable(f"{endpoint} does not answer for hf://{repository}") from error
    except EntryNotFoundError as error:
        raise StoreRefused(f"hf://{repository} lacks a file it lists: {error}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in {401, 403}:
            raise StoreRefused(
                f"{endpoint} refused hf://{repository} ({status}); check HF_TOKEN in the Secret", about_credentials=True
            ) from error
        raise StoreUnavailable(f"{endpoint} answered {status} for hf://{repository}") from error
    except _NO_ANSWER as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        raise StoreUnavailable(f"{endpoint} does not answer for hf://{repository} ({type(error).__name__}: {error})") from error
