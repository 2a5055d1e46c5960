"""How long a member's processes wait for what, in one place. Seconds.

Which must be longer than which, beside those of the operator: tests/architecture/test_times.py.
"""

# The channel, seen by a member.
HEARTBEAT_SECONDS = 5.0  # between two pings to the coordinator
FIRST_RECONNECT_SECONDS, LONGEST_RECONNECT_SECONDS = 0.1, 2.0
# An operator that was killed leaves an address behind at which nothing answers, not even with a refusal: it must not be waited for long.
CONNECT_SECONDS = 1.0
HANDSHAKE_SECONDS = 6.0
PROBE_ANSWER_SECONDS = 2.0  # a peer that does not answer within it is not reachable
BETWEEN_PROGRESS_SECONDS = 0.5  # two messages of progress
BETWEEN_PREPARED_SECONDS = 15.0  # between two messages about the rows that are prepared: each may be a write of the status

# Whether workers live.
# Seconds without a beat. Loading reads a base model, tensor by tensor; preparing beats at each row; the first step opens collectives.
BEAT_DEADLINE_SECONDS = {
    "loading": 600.0,
    "preparing": 120.0,
    "first_step": 120.0,
    "training": 30.0,
    "evaluating": 120.0,
    "exporting": 300.0,
}
SLOWEST_BYTES_A_SECOND = 5e6  # a pace, no length: of a disk that an adapter is written to
KNOWN_PACE_SECONDS = 4.5  # the deadline of training once its pace is known: with a tick and the stacks, 5 s until it is told
WAITING_RANK_SECONDS = 2.0  # extra patience for a rank that waits for its peers, so that the agent of the stuck rank reports first
FORMATION_TICK_SECONDS = 0.25  # between two looks at the beats
BETTER_REPORT_SECONDS = 0.5  # after the loss of a peer: time for the report of its cause to come from a sibling
MEETING_SECONDS = 600  # the agents' deadlines end a formation earlier
LISTENING_SECONDS = 10.0  # for node rank 0 to listen; then torch waits in its own way
LOOK_AGAIN_SECONDS = 0.005
LAUNCHER_RESTART_SECONDS = 0.1  # before a launcher that ended is started again
BETWEEN_STEPS_SECONDS = 2.0  # a snapshot takes milliseconds, one of several GB about a second; a lost peer may keep a step from its end
BETWEEN_STEPS_POLL_SECONDS = 0.002
PROCESS_POLL_SECONDS = 0.005
MEETING_POLL_SECONDS = 0.02
LOCK_POLL_SECONDS = 0.1

# Ending.
ALONE_SECONDS = 60.0  # without a coordinator after the last work is done
LAST_SAVE_SECONDS = 1.5  # before the deadline of a leaving member: workers end, the newest snapshot goes up
PUBLISH_SECONDS = 0.5  # for the last words to reach the coordinator
TRACKING_FAREWELL_SECONDS = 5.0  # for the last numbers to reach the tracker

# Stores and trackers.
S3_CONNECT_SECONDS, S3_READ_SECONDS = 2, 5
S3_FIRST_BACKOFF_SECONDS, S3_LONGEST_BACKOFF_SECONDS = 0.1, 2.0  # within one call
UPLOADER_LOOK_SECONDS = 0.2  # how often a new snapshot is looked for
UPLOAD_FIRST_BACKOFF_SECONDS, UPLOAD_LONGEST_BACKOFF_SECONDS = 1.0, 10.0
ASK_UPLOADER_AGAIN_SECONDS = 1.0
STORE_FIRST_BACKOFF_SECONDS, STORE_LONGEST_BACKOFF_SECONDS = 0.5, 10.0  # while inputs are fetched
STORE_AWAY_AGAIN_SECONDS = 60.0  # a member that waits for a store meanwhile says so again
TRACKER_RETRY_SECONDS = 30.0
TRACKING_RESTART_SECONDS = 30.0
TRACKING_LONGEST_FINISH_SECONDS = 60.0
