"""What the rules read of a job's spec."""

import re
from pathlib import Path

from tests.builders.observed import a_job

from finetune_operator.decide.facts.gang_spec import GangSpec, RunSpec, gang_spec

RULES = Path(__file__).resolve().parents[2] / "operator/finetune_operator/decide"


def test_a_gang_is_what_its_job_asks_for() -> None:
    job = a_job(
        model={"uri": "pvc://weights/qwen"},
        dataset={"uri": "s3://data/rows.jsonl", "evalUri": "configmap://held-out/rows"},
        adapter={"rank": 8},
        training={"maxSequenceLength": 512, "gradientCheckpointing": False},
        resources={"nodes": {"min": 2, "max": 5, "elasticWaitSeconds": 7}, "spares": 1, "processesPerNode": 4},
        storage={"secretName": "s3"},
        placement={"timeoutSeconds": 11, "startTimeoutSeconds": 61},
        restartPolicy={"maxCrashesWithoutProgress": 6},
        image="trainer:2",
        priority=9,
        suspend=True,
        activeDeadlineSeconds=13,
        terminationGracePeriodSeconds=17,
        ttlSecondsAfterFinished=19,
    )
    assert gang_spec(job.spec) == GangSpec(
        min_nodes=2,
        max_nodes=5,
        num_spares=1,
        processes_per_node=4,
        image="trainer:2",
        mounted=("ConfigMap held-out", "PersistentVolumeClaim weights", "Secret s3"),
        priority=9,
        is_suspended=True,
        elastic_wait_seconds=7,
        placement_timeout_seconds=11,
        start_timeout_seconds=61,
        grace_seconds=17,
        active_deadline_seconds=13,
        ttl_seconds=19,
        max_crashes_without_progress=6,
        run=RunSpec(
            model_uri="pvc://weights/qwen",
            dataset_uri="s3://data/rows.jsonl",
            output_uri="s3://out/adapter",
            output_if_exists="Fail",
            adapter_rank=8,
            max_sequence_length=512,
            has_gradient_checkpointing=False,
        ),
    )


def test_no_rule_reads_the_spec_of_a_job() -> None:
    """It is read where a gang is asked for, where the line is made of jobs, and where a policy is held against it."""
    found = {path.relative_to(RULES).as_posix() for path in RULES.rglob("*.py") if re.search(r"\bjob\.spec\b", path.read_text())}
    assert found == {"facts/gang.py", "facts/line.py", "facts/priority.py"}
