"""The transfer child: checks the places, fetches model and data, tells their digests. `python -m finetune_agent.preparing PARENT`.

A store that is away is waited for with a warning; a store that refuses ends it in the user's words.
"""

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TypeVar

from finetune_agent.logs import configure_logs
from finetune_agent.preparing.digests import combine
from finetune_agent.preparing.fetch import Fetch
from finetune_agent.preparing.messages import ReadyInputs, TransferDone, TransferFailed, Transferred
from finetune_agent.preparing.patience import until_it_answers
from finetune_agent.preparing.places_check import check_checkpoint_place, check_output_place
from finetune_agent.processes.proc_tree import die_with_parent
from finetune_agent.settings import Settings, read_settings
from finetune_agent.stores.credentials import CredentialFiles
from finetune_agent.stores.object_store import DISK_FULL
from finetune_agent.tracking.tracking_check import check_tracking
from finetune_contract.config import JobConfig
from finetune_contract.failures import FailureClass, FailureReport, TrainingError
from finetune_contract.reasons import STORE_AWAY
from finetune_contract.reports import Output, Warned
from finetune_contract.state import InputDigests
from finetune_contract.values import Value, render_message

_Result = TypeVar("_Result")


class Transfer:
    """`tell` takes messages for the agent; `random` spreads retries."""

    def __init__(self, *, config: JobConfig, settings: Settings, tell: Callable[[Value], None], random: Random) -> None:
        self._config, self._settings, self._tell, self._random = config, settings, tell, random
        self._credentials = CredentialFiles(settings.credentials_folder)
        self._fetch = Fetch(
            storage=config.storage, credentials=self._credentials, cache=settings.cache_folder, random=random, reach=settings.reach
        )

    def run(self) -> TransferDone:
        """Raises TrainingError."""
        self._try("spec.tracking.secretName", self._check_tracking)
        output = self._try("spec.output.uri", self._check_output)
        if output is not None:
            return TransferDone(inputs=None, output=output)
        self._try("spec.checkpoint.uri", self._check_checkpoint)
        over = threading.Event()
        threading.Thread(target=self._tell_bytes, args=(over,), daemon=True).start()
        try:
            return TransferDone(inputs=self._fetch_all(), output=None)
        finally:
            over.set()

    def _fetch_all(self) -> ReadyInputs:
        model, dataset = self._config.model, self._config.dataset
        fetched = self._try("spec.model.uri", lambda: self._fetch.model(model))
        rows = self._try("spec.dataset.uri", lambda: self._fetch.dataset(dataset.uri, "train"))
        eval_uri = dataset.eval_uri
        held_out = self._try("spec.dataset.evalUri", lambda: self._fetch.dataset(eval_uri, "eval")) if eval_uri is not None else None
        return ReadyInputs(
            model_dir=str(fetched.path),
            dataset_files=tuple(map(str, rows.files)),
            eval_files=() if held_out is None else tuple(map(str, held_out.files)),
            digests=InputDigests(
                model=fetched.sha256,
                dataset=rows.sha256 if held_out is None else combine({"eval": held_out.sha256, "train": rows.sha256}),
                model_revision=fetched.revision,
            ),
        )

    def _check_tracking(self) -> None:
        allowed = self._settings.reach.allowed_endpoints
        check_tracking(self._config.tracking, self._settings.tracking_folder, os.environ, allowed_endpoints=allowed)

    def _check_output(self) -> Output | None:
        return check_output_place(self._config, self._credentials, self._random, self._settings)

    def _check_checkpoint(self) -> None:
        warning = check_checkpoint_place(self._config, self._credentials, self._random, self._settings)
        if warning is not None:
            self._tell(warning)

    def _try(self, field: str, attempt: Callable[[], _Result]) -> _Result:
        """Raises TrainingError where waiting is of no use."""
        return until_it_answers(field, attempt, warn=self._warn, random=self._random)

    def _warn(self, message: str) -> None:
        self._tell(Warned(reason=STORE_AWAY, message=message))

    def _tell_bytes(self, over: threading.Event) -> None:
        while not over.wait(1.0):
            self._tell(Transferred(bytes_done=self._fetch.bytes_done(), bytes_total=self._fetch.bytes_total))


def _tell(report: Value) -> None:
    sys.stdout.write(render_message(report) + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    die_with_parent(int(arguments[0]))
    settings = read_settings(os.environ)
    config = JobConfig.model_validate_json(Path(settings.config_path).read_text())
    configure_logs(job=config.job.name, member=settings.member_name, part="transfer", stream=sys.stderr)
    try:
        _tell(Transfer(config=config, settings=settings, tell=_tell, random=Random()).run())
    except TrainingError as error:
        _tell(TransferFailed(report=FailureReport(failure_class=error.failure_class, message=error.message)))
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        advice = "give the members more ephemeral storage, or nodes with more of it"
        message = f"the folder for model and data, {settings.cache_folder}, is full ({error.strerror}); {advice}"
        _tell(TransferFailed(report=FailureReport(failure_class=FailureClass.INFRASTRUCTURE, message=message)))
    return 0
