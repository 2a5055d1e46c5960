"""Models and data sets from a hub, through huggingface_hub (endpoint: its own HF_ENDPOINT). Only what training needs is fetched.

Which commit of the repository is meant is settled once, before the first byte, so that all files are of one commit.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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

from finetune_agent.digests import is_model_file
from finetune_agent.stores import DISK_FULL, StoreRefused, StoreUnavailable
from finetune_contract.places import Place

# Of the HTTP library below the hub's, which is another one in other versions and whose errors are no OSError.
_NO_ANSWER: tuple[type[Exception], ...] = HfHubHTTPError.__bases__


@dataclass(frozen=True, kw_only=True)
class HubFiles:
    """Files of one commit of one repository. `kind` is the hub's word: "model" or "dataset"."""

    kind: str
    repository: str
    commit: str
    names: tuple[str, ...]
    num_bytes: int


class Hub:
    """`token` is asked at each use; None leaves it to huggingface_hub's own chain."""

    def __init__(self, *, token: Callable[[], str | None]) -> None:
        self._token = token

    def find_model(self, place: Place, revision: str | None) -> HubFiles:
        repository = f"{place.container}/{place.path}"
        found = self._find("model", repository, revision, is_model_file)
        if "config.json" not in found.names or not any(name.endswith(".safetensors") for name in found.names):
            raise StoreRefused(
                f"hf://{repository} holds no model that can be trained: wanted config.json and *.safetensors, "
                f"found {', '.join(found.names) or 'neither'}; choose a repository with safetensors weights"
            )
        return found

    def find_rows(self, place: Place) -> HubFiles:
        """hf://OWNER/NAME with one .jsonl file, or hf://OWNER/NAME/FILE-OR-FOLDER; a folder's files follow each other by name."""
        name, _, inside = place.path.partition("/")
        repository = f"{place.container}/{name}"

        def is_wanted(path: str) -> bool:
            return path.endswith(".jsonl") and (not inside or path == inside or path.startswith(f"{inside}/"))

        found = self._find("dataset", repository, None, is_wanted)
        if not found.names:
            raise StoreRefused(f"hf://{place.container}/{place.path} holds no .jsonl file; wanted one JSON object a line")
        if len(found.names) > 1 and not inside:
            names = ", ".join(found.names[:5])
            raise StoreRefused(
                f"hf://{repository} holds {len(found.names)} .jsonl files ({names}); name one, as in hf://{repository}/{found.names[0]}"
            )
        return found

    def download(self, found: HubFiles, name: str, folder: Path) -> Path:
        """Goes on where an earlier attempt stopped."""
        with _hub_errors(found.repository, found.commit):
            path = hf_hub_download(
                found.repository, name, repo_type=found.kind, revision=found.commit, local_dir=folder, token=self._token()
            )
        return Path(path)

    def _find(self, kind: str, repository: str, revision: str | None, is_wanted: Callable[[str], bool]) -> HubFiles:
        with _hub_errors(repository, revision):
            info = HfApi(token=self._token()).repo_info(repository, repo_type=kind, revision=revision, files_metadata=True)
        files = sorted((entry.rfilename, entry.size or 0) for entry in info.siblings or () if is_wanted(entry.rfilename))
        names = tuple(name for name, _ in files)
        return HubFiles(kind=kind, repository=repository, commit=info.sha, names=names, num_bytes=sum(size for _, size in files))


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
