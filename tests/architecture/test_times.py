"""How long is waited for what stands in two modules, and what must be longer than something else is."""

import ast
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from finetune_contract import times as member
from finetune_operator import times as operator
from finetune_operator.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
HOMES = {"operator/finetune_operator/times.py", "trainer-image/finetune_contract/times.py"}
NOT_WAITED_FOR = {"MAX_SECONDS", "_TERMS_EPOCH_SECONDS"}  # the bound of a field; a date
WEBHOOK_SECONDS = yaml.safe_load((ROOT / "helm/finetune-operator/values.yaml").read_text())["webhook"]["timeoutSeconds"]
RECONNECT_SECONDS = Settings.__dataclass_fields__["reconnect_seconds"].default


def test_a_length_of_time_stands_in_its_module_and_nowhere_else() -> None:
    """Tables of histogram buckets are no lengths of time."""
    found = []
    for path in sorted([*ROOT.glob("operator/finetune_operator/**/*.py"), *ROOT.glob("trainer-image/finetune_*/**/*.py")]):
        for node in ast.parse(path.read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            named = {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
            long = {name for name in named - NOT_WAITED_FOR if name.endswith(("_SECONDS", "_MINUTES", "_DAYS"))}
            is_table = isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple) and len(node.value.elts) > len(named)
            if long and not is_table and path.relative_to(ROOT).as_posix() not in HOMES:
                found.append((path.relative_to(ROOT).as_posix(), *sorted(long)))
    assert found == []


@pytest.mark.parametrize(
    ("reason", "rising"),
    [
        (
            "a leader stops before another may lead, after more than one try",
            (operator.LEASE_TRY_SECONDS + operator.LEASE_RETRY_SECONDS, operator.RENEW_DEADLINE_SECONDS, operator.LEASE_SECONDS),
        ),
        (
            "nobody is judged before members had the time to come back, by their longest back-off and a handshake",
            (member.LONGEST_RECONNECT_SECONDS + member.CONNECT_SECONDS + member.HANDSHAKE_SECONDS, RECONNECT_SECONDS),
        ),
        (
            "a member that only lost its channel once is back before it counts as unreachable",
            (member.FIRST_RECONNECT_SECONDS + member.CONNECT_SECONDS, operator.UNREACHABLE_SECONDS),
        ),
        (
            "a peer's answer to a probe is there before a member counts as unreachable",
            (member.PROBE_ANSWER_SECONDS, operator.UNREACHABLE_SECONDS),
        ),
        (
            "a member that is cut off is noticed before it counts as unreachable",
            (1.5 * operator.PING_SECONDS, operator.UNREACHABLE_SECONDS),
        ),
        (
            "the rank to blame speaks before those that wait for it, and both before the operator calls it a stall",
            (
                member.KNOWN_PACE_SECONDS,
                member.KNOWN_PACE_SECONDS + member.WAITING_RANK_SECONDS + member.FORMATION_TICK_SECONDS,
                operator.STALL_SECONDS,
            ),
        ),
        (
            "the operator does not call a stall what the agents still give time for",
            (member.BEAT_DEADLINE_SECONDS["training"] - 1.0, operator.STALL_SECONDS),
        ),
        (
            "the beats end a formation whose ranks do not meet before torch does",
            (member.BEAT_DEADLINE_SECONDS["first_step"], member.MEETING_SECONDS),
        ),
        (
            "the report of a cause is awaited for longer by the operator than by an agent",
            (member.BETTER_REPORT_SECONDS, operator.BETTER_EVIDENCE_SECONDS),
        ),
        (
            "a leaving member's formation is re-made before it saves for the last time and tells so",
            (member.PUBLISH_SECONDS, member.LAST_SAVE_SECONDS, operator.LEAVE_MARGIN_SECONDS, operator.UNANNOUNCED_SECONDS),
        ),
        (
            "a member that waits for a store says so twice before the operator takes its silence for an answer of the store",
            (2 * member.STORE_AWAY_AGAIN_SECONDS, operator.STORE_AWAY_SILENCE_SECONDS),
        ),
        (
            "an honest member does not tell of its rows more often than is listened to, and no more often than progress is written",
            (operator.ROWS_TOLD_SECONDS, min(member.BETWEEN_PREPARED_SECONDS, operator.STATUS_PROGRESS_SECONDS)),
        ),
        ("a half-open watch is found within a minute", (operator.MOST_STREAM_SECONDS + operator.LATE_STREAM_SECONDS, 60)),
        ("a half-open feed is found within a minute", (operator.FEED_STREAM_SECONDS + operator.FEED_RESTART_SECONDS, 60)),
        (
            "the webhook answers before the API server gives it up",
            (operator.REVIEW_TURN_SECONDS + operator.REVIEW_WAIT_SECONDS + operator.REVIEW_TRIAL_SECONDS, WEBHOOK_SECONDS),
        ),
        (
            "a running gang blocks the line for longer than a turn takes, and a shortened turn is shorter",
            (operator.SHORTEST_TURN_SECONDS, operator.TURN_SECONDS, operator.LONGEST_BLOCK_SECONDS, operator.PRECEDENCE_AGAIN_SECONDS / 2),
        ),
        ("the next authority is known everywhere before it signs", (operator.PROMOTE_CA_DAYS, operator.PREPARE_CA_DAYS)),
        (
            "no serving certificate outlives its authority",
            (operator.RENEW_SERVING_DAYS, operator.SERVING_DAYS, operator.PROMOTE_CA_DAYS + 31),
        ),
        ("keys of tokens are read anew more often than tokens end", (operator.KEYS_REFRESH_SECONDS, operator.KEYS_LIFE_SECONDS)),
        (
            "back-offs grow",
            (operator.PASS_FIRST_BACKOFF_SECONDS, operator.PASS_MAX_RESTLESS_SECONDS, operator.PASS_MAX_BACKOFF_SECONDS),
        ),
        ("admission backs off by more than it waits at first", (operator.FIRST_BACKOFF_SECONDS, operator.MAX_BACKOFF_SECONDS)),
        ("what the server asks for is never waited for by a whole lease", (operator.MAX_RETRY_AFTER_SECONDS, operator.LEASE_SECONDS)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_must_be_longer_is(reason: str, rising: tuple[float, ...]) -> None:
    assert all(earlier < later for earlier, later in pairwise(rising)), reason
