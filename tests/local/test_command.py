"""`finetune run` as its users meet it: exit codes, messages, Ctrl-C, and a run that goes on where it was stopped."""

import os
import signal
import stat

import yaml
from tests.local.runs import Command, a_document, adapter_sha256

from finetune_operator.local.command import FAILED, INVALID, RunOptions, run_file
from finetune_operator.local.folders import MEMORY_FOLDER
from finetune_operator.local.proc import processes_in

ONE_MEMBER = {"nodes": {"min": 1, "max": 1}}


async def test_an_invalid_yaml_gives_the_lines_of_validate_and_exit_code_2(document, tmp_path):
    broken = document(adapter={"rank": 0})
    code, said, complained = await (await Command(tmp_path, broken).begin()).end()
    assert (code, said) == (2, "")
    line = next(number for number, text in enumerate((tmp_path / "job.yaml").read_text().splitlines(), 1) if "rank:" in text)
    assert complained == f"{tmp_path}/job.yaml:{line}: spec.adapter.rank: got 0, wanted at least 1\n"


async def test_a_cluster_place_in_the_yaml_is_no_error_once_store_replaces_it(document, tmp_path):
    cluster = document(checkpoint={"uri": "pvc://claim/checkpoints"}, output={"uri": "pvc://claim/adapter"})
    refused, _, complained = await (await Command(tmp_path, cluster).begin()).end()
    assert refused == 2
    assert "pvc:// needs a cluster" in complained
    stored = await Command(tmp_path, cluster, "--store", str(tmp_path / "store")).begin()
    await stored.until_event("Admitted")
    stored.signal(signal.SIGINT)
    stored.signal(signal.SIGINT)
    assert (await stored.end())[0] == 130


async def test_ctrl_c_saves_leaves_no_process_and_the_next_run_goes_on(undisturbed, document, tmp_path):
    command = await Command(tmp_path, document()).begin()
    await command.until_event("CheckpointSaved")
    tokens = list((tmp_path / "work" / "members").glob("*/token"))
    assert [stat.S_IMODE(path.stat().st_mode) for path in tokens] == [0o600, 0o600]
    command.signal(signal.SIGINT)
    code, said, _ = await command.end()
    assert code == 130, said
    assert command.living() == []
    assert f"--work-dir {tmp_path}/work" in said

    again = await Command(tmp_path, document()).begin()
    code, said, complained = await again.end()
    assert code == 0, said + complained
    assert "resumed from step" in again.events()
    assert "state hash" in said
    assert adapter_sha256(tmp_path) == undisturbed[1]


async def test_a_killed_command_leaves_no_process(document, tmp_path):
    command = await Command(tmp_path, document(resources=ONE_MEMBER)).begin()
    await command.until_event("FormationStarted")
    command.signal(signal.SIGKILL)
    await command.end()
    for _ in range(100):
        if not command.living():
            break
    assert command.living() == []


async def test_a_work_folder_of_another_job_is_refused(document, tmp_path, inputs):
    command = await Command(tmp_path, document(resources=ONE_MEMBER)).begin()
    await command.until_event("Admitted")
    command.signal(signal.SIGTERM)
    assert (await command.end())[0] == 130
    other = a_document(tmp_path, model=inputs / "llama", rows=inputs / "rows.jsonl")
    code, _, complained = await (await Command(tmp_path, other).begin()).end()
    assert code == 2
    assert "unfinished run of tiny with another model" in complained


def test_a_work_folder_that_cannot_be_made_is_named_without_numbers_of_the_system(tmp_path, capsys):
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(a_document(tmp_path, model=tmp_path, rows=tmp_path)))
    assert run_file(RunOptions(file=file, work=file / "below-a-file"), {}) == INVALID
    assert capsys.readouterr().err == f"--work-dir {file}/below-a-file: Not a directory; choose another folder\n"


def test_a_work_folder_without_room_ends_the_run_in_words_and_leaves_nothing(tmp_path, capsys):
    file, work = tmp_path / "job.yaml", tmp_path / "work"
    file.write_text(yaml.safe_dump(a_document(tmp_path, model=tmp_path, rows=tmp_path)))
    work.mkdir()
    (work / "job.tmp").symlink_to("/dev/full")
    before = set(MEMORY_FOLDER.glob("finetune-*"))
    assert run_file(RunOptions(file=file, work=work, is_plain=True), dict(os.environ)) == FAILED
    wanted = f"work folder {work}: No space left on device; make room, or choose another folder with --work-dir\n"
    assert capsys.readouterr().err.endswith(wanted)
    assert set(MEMORY_FOLDER.glob("finetune-*")) <= before
    assert processes_in(work) == ()
