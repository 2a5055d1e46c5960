"""The uploader: all object store I/O for snapshots, in a process of its own so that neither a step nor a heartbeat waits for it.

Run as `python -m finetune_agent.uploading SLOTS_FD PARENT`. Requests on stdin, reports on stdout. Ends when stdin does.

    snapshot in a slot --lease, CRC--> state object --> manifest (if absent) --> Committed --> prune
"""

import logging
import os
import queue
import sys
import threading
import time
from pathlib import Path
from random import Random

from finetune_agent.logs import configure_logs
from finetune_agent.processes.proc_tree import die_with_parent
from finetune_agent.settings import LOCAL, Reach, read_settings
from finetune_agent.stores.credentials import CredentialFiles
from finetune_agent.stores.object_store import StoreRefused, StoreUnavailable
from finetune_agent.stores.open_store import open_store
from finetune_agent.uploading.commit_log import CommitInvalid, CommitLog
from finetune_agent.uploading.messages import Answer, CommitNewest, Follow, LoadNewest, Publish, Question, Request, Rest, parse_request
from finetune_agent.uploading.publish import publish
from finetune_contract.backoff import Backoff
from finetune_contract.config import JobConfig
from finetune_contract.failures import FailureClass, FailureReport, TrainingError
from finetune_contract.places import parse_place
from finetune_contract.reports import Committed, Output, StorageProblem, StorageState, Warned
from finetune_contract.slots import SlotFile
from finetune_contract.state import StateId
from finetune_contract.times import UPLOAD_FIRST_BACKOFF_SECONDS, UPLOAD_LONGEST_BACKOFF_SECONDS, UPLOADER_LOOK_SECONDS
from finetune_contract.values import Value, render_message

_BACKOFF = Backoff(first_seconds=UPLOAD_FIRST_BACKOFF_SECONDS, longest_seconds=UPLOAD_LONGEST_BACKOFF_SECONDS)
_WAITING = {
    CommitNewest: "training goes on, snapshots wait in memory until the store can be used",
    LoadNewest: "training waits until the newest commit can be read",
    Publish: "training is done, the adapter waits on this member until the store can be used",
}
_log = logging.getLogger(__name__)


class Uploader:
    """One request or one upload at a time; nothing here may end the process but the end of stdin."""

    def __init__(self, *, config: JobConfig, slots: SlotFile, credentials: CredentialFiles, random: Random, reach: Reach = LOCAL) -> None:
        self._config, self._slots, self._credentials, self._random = config, slots, credentials, random
        self._reach = reach
        self._requests: queue.Queue[Request | None] = queue.Queue()
        self._following: Follow | None = None
        self._newest: StateId | None = None  # newest commit known
        self._next_upload_at = 0.0
        self._num_failures = 0  # in a row
        self._storage: StorageState | None = None  # as it was told last
        self._trouble: tuple[str, str] | None = None  # reason and consequence of the problem that was told last

    def run(self) -> None:
        threading.Thread(target=self._read_requests, daemon=True).start()
        while True:
            try:
                request = self._requests.get(timeout=UPLOADER_LOOK_SECONDS)
            except queue.Empty:
                self._upload_if_due()
                continue
            if request is None:
                return
            self._take(request)

    def _read_requests(self) -> None:
        for line in sys.stdin.buffer:
            self._requests.put(parse_request(line))
        self._requests.put(None)

    def _take(self, request: Request) -> None:
        if isinstance(request, Follow):
            self._following, self._next_upload_at = request, 0.0
        elif isinstance(request, Rest):
            self._following = None
        else:
            _tell(self._answer(request))

    def _answer(self, request: Question) -> Answer:
        before = self._newest
        try:
            if isinstance(request, CommitNewest):
                answer = Answer(id=request.id, state=self._commit_newest())
            elif isinstance(request, LoadNewest):
                answer = Answer(id=request.id, state=self._load_newest(request))
            else:
                answer = Answer(id=request.id, output=self._publish(request))
        except (StoreUnavailable, StoreRefused) as error:
            self._note_trouble(error, _WAITING[type(request)])
            return Answer(id=request.id, unavailable=str(error))
        except TrainingError as error:
            return Answer(id=request.id, failure=FailureReport(failure_class=error.failure_class, message=error.message))
        except OSError as error:
            message = f"a snapshot cannot be kept in memory: {error.strerror}; raise the memory limit of the members"
            return Answer(id=request.id, failure=FailureReport(failure_class=FailureClass.OUT_OF_MEMORY, message=message))
        if not isinstance(request, CommitNewest) or self._newest != before:
            self._tell_storage(StorageState())
        return answer

    def _upload_if_due(self) -> None:
        newest = self._slots.newest_id()
        is_new = newest is not None and (self._newest is None or newest.order > self._newest.order)
        if self._following is None or not is_new or time.monotonic() < self._next_upload_at:
            return
        started = time.monotonic()
        try:
            self._commit_newest()
            self._log().prune(keep=self._config.checkpoint.keep, spared=self._following.resumed_from)
        except (StoreUnavailable, StoreRefused) as error:
            self._note_trouble(error, _WAITING[CommitNewest])
            self._num_failures += 1
            self._next_upload_at = time.monotonic() + _BACKOFF.spread_after(self._num_failures, self._random)
        else:
            self._tell_storage(StorageState())
            self._num_failures = 0
            self._next_upload_at = started + self._config.checkpoint.min_interval_seconds

    def _commit_newest(self) -> StateId | None:
        """The newest commit afterwards; None if there is no snapshot."""
        snapshot = self._slots.read_newest()
        if snapshot is None or (self._newest is not None and snapshot.state_id.order <= self._newest.order):
            return self._newest
        started = time.monotonic()
        key = self._log().write(snapshot)
        self._newest = snapshot.state_id
        seconds = round(time.monotonic() - started, 3)
        _tell(Committed(state=snapshot.state_id, key=key, num_bytes=len(snapshot.state), seconds=seconds))
        return self._newest

    def _load_newest(self, request: LoadNewest) -> StateId | None:
        """Walks back over commits that do not verify, naming each; None if there is nothing newer that does."""
        log = self._log()
        for state in log.states():
            if request.newer_than is not None and state.order <= request.newer_than.order:
                return None
            try:
                snapshot = log.read(state, request.inputs)
            except CommitInvalid as error:
                message = f"commit of step {state.step} is skipped, the one before is tried: {error}"
                _tell(Warned(reason="CommitSkipped", message=message))
                continue
            self._slots.reserve(len(snapshot.state))
            self._slots.write(snapshot.state_id, snapshot.record, snapshot.state)
            self._newest = state
            return state
        return None

    def _publish(self, request: Publish) -> Output:
        place = parse_place(self._config.output.uri)
        store = open_store(place, storage=self._config.storage, credentials=self._credentials, random=self._random, reach=self._reach)
        return publish(store, self._config, request)

    def _log(self) -> CommitLog:
        place = parse_place(self._config.checkpoint.uri)
        store = open_store(place, storage=self._config.storage, credentials=self._credentials, random=self._random, reach=self._reach)
        return CommitLog(store=store, job_uid=self._config.job.uid, config_digests=self._config.trajectory_digests())

    def _note_trouble(self, error: StoreUnavailable | StoreRefused, consequence: str) -> None:
        _log.warning("the store cannot be used: %s", error)
        reason = "StorageUnavailable" if isinstance(error, StoreUnavailable) else "StorageRefused"
        if self._trouble != (reason, consequence):  # not again for each key and attempt
            self._trouble = (reason, consequence)
            self._tell_storage(StorageState(problem=StorageProblem(reason=reason, message=f"{consequence}: {error}")))

    def _tell_storage(self, storage: StorageState) -> None:
        if storage.problem is None:
            self._trouble = None
        if storage != self._storage:
            self._storage = storage
            _tell(storage)


def _tell(report: Value) -> None:
    sys.stdout.write(render_message(report) + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    slots_fd, parent_pid = int(arguments[0]), int(arguments[1])
    die_with_parent(parent_pid)
    settings = read_settings(os.environ)
    config = JobConfig.model_validate_json(Path(settings.config_path).read_text())
    configure_logs(job=config.job.name, member=settings.member_name, part="uploader", stream=sys.stderr)
    credentials = CredentialFiles(settings.credentials_folder)
    Uploader(config=config, slots=SlotFile(slots_fd), credentials=credentials, random=Random(), reach=settings.reach).run()
    return 0
