"""How long the operator waits for what, in one place. Seconds, unless a name says otherwise; shares and numbers say what they are.

What a platform may have to change is a setting (settings.py). Which must be longer than which: tests/architecture/test_times.py.
Those of the members' processes: finetune_contract/times.py.
"""

# The line and what waits in it.
TURN_SECONDS = 30.0  # the line waits so long for a gang none of whose pods finds a node
SHORTEST_TURN_SECONDS = 10.0  # of a gang that gave back before
LONGEST_BLOCK_SECONDS = 300.0  # a gang that replaces lost members holds up the line no longer in all, whatever its placement.timeoutSeconds
PRECEDENCE_AGAIN_SECONDS = 1800.0  # from the first of its losses to the next one that is counted anew
FIRST_BACKOFF_SECONDS = 15.0
MAX_BACKOFF_SECONDS = 600.0
MAX_FAILED_STARTS = 3  # a number: placed so often and never started ends the job
SECONDS_A_SILENT_END = 60.0  # about one member in a minute ends silently when none ever speaks
BACKOFF_JITTER = 0.25  # share of the back-off by which gangs that gave back together are spread to either side

# Members on the channel.
PING_SECONDS = 1.2  # a member that is cut off is silent for 1.8 s at most before its peers are asked
LONGEST_SLOWING_SECONDS = 0.25  # at once, so that a member that is slowed still answers pings
SEND_SECONDS = 10.0  # a member that takes no order for so long is disconnected
REPEAT_ORDER_SECONDS = 5.0  # between two equal orders to one member
GREET_SECONDS = 10.0  # from the accepted connection to a hello with a valid token
OUT_OF_DESCRIPTORS_SECONDS = 0.5  # nobody is let in meanwhile
FLOOD_PATIENCE_SECONDS = 10.0  # a member that says too much all this time is disconnected
WAKE_CALM_SECONDS = 1.0  # progress and warnings of one job wake it at most so often
STORAGE_TOLD_SECONDS = 5.0  # between two states of the store that one member tells
ROWS_TOLD_SECONDS = 10.0  # between two states of the rows that the members of one job prepare

# When a member is judged.
UNREACHABLE_SECONDS = 3.0  # a lost channel is evidence of nothing before
STALL_SECONDS = 30.0  # a busy machine must not look like a hang; agents see a silent worker earlier by its beat
UNANNOUNCED_SECONDS = 10.0  # grace assumed after SIGTERM without a pod deletion: the node shuts down
LEAVE_MARGIN_SECONDS = 3.0  # a formation is re-made so long before its leaving member ends
SILENT_SECONDS = 60.0  # a pod that runs and whose agent never spoke
STORE_AWAY_SILENCE_SECONDS = 180.0  # a member that prepares and did not say again that it waits for a store waits no more
PROBE_SECONDS = 1.0  # between two questions to peers whether they reach a member
WATCH_SECONDS = 5.0  # a deadline may pass without anything that happens
INSPECT_SECONDS = 0.5  # time for the stacks of a hang to be written
LOOK_AT_COMMIT_SECONDS = 0.5  # between two looks at a commit that is on its way
BETTER_EVIDENCE_SECONDS = 1.0  # after a victim's report: time for the report of its cause
FIRST_SILENT_BACKOFF_SECONDS = 1.0
MAX_SILENT_BACKOFF_SECONDS = 60  # between replacements of members that end without a word
FIRST_REFUSED_BACKOFF_SECONDS = 5.0
MAX_REFUSED_BACKOFF_SECONDS = 60  # between attempts to make a pod that is refused

# How a job ends, rests and tells.
EXIT_SECONDS = 30.0  # an ended job's members have so long to end by themselves
SUSPEND_SAVE_SECONDS = 60.0  # to commit the newest snapshot of a job that is suspended
STATUS_PROGRESS_SECONDS = 15.0  # between two writes of a status in which only numbers moved
FINISHED_JOB_METRICS_SECONDS = 3600.0  # its series are told on so long

# Passes.
PASS_FIRST_BACKOFF_SECONDS = 0.05
PASS_MAX_BACKOFF_SECONDS = 60.0  # of a pass that the API server did not let through
PASS_MAX_BROKEN_SECONDS = 300.0  # of a pass that raised
PASS_MAX_RESTLESS_SECONDS = 30.0  # of one that asks for another at once again and again

# Leading.
LEASE_SECONDS = 15
RENEW_DEADLINE_SECONDS = 10.0  # a leader that could not renew for so long stops
LEASE_RETRY_SECONDS = 2.0
LEASE_TRY_SECONDS = 5.0  # one call
MAX_FOREIGN_LEASE_SECONDS = 3600  # of a lease that somebody else wrote
PUBLISH_AGAIN_SECONDS = 60.0
LEADING_RETRY_SECONDS = 2.0
LEADING_MAX_RETRY_SECONDS = 60.0

# The API server.
CALL_SECONDS = 10.0  # one request that is no watch
# A stream is asked to end within a minute, and one that is still open after that is half-open: no silence lasts longer.
LEAST_STREAM_SECONDS, MOST_STREAM_SECONDS = 40, 50
LATE_STREAM_SECONDS = 5.0  # after the end that was asked for
HEALTHY_STREAM_SECONDS = 5.0  # a stream that lasts as long has not failed
WATCH_FIRST_BACKOFF_SECONDS = 1.0
WATCH_MAX_BACKOFF_SECONDS = 30.0
FEED_STREAM_SECONDS = 45  # the same for kopf's watch
FEED_RESTART_SECONDS = 2.0
MAX_RETRY_AFTER_SECONDS = 10.0  # whatever the server asks for
OWN_TOKEN_LIFE_SECONDS = 60.0  # then the file is read again
TELL_UNREADABLE_AGAIN_SECONDS = 60.0
SEEN_BY_THE_FEED_SECONDS = 600.0  # nothing is asked for meanwhile: a change of the job comes by the feed
LEFT_OUT_SECONDS = 60.0  # a field that the server refused is tried again after it
CONFIGMAP_CHECK_SECONDS = 5.0  # between two looks whether those of a job are still there
EVENT_SERIES_SECONDS = 600.0  # equal events within it are counted in one object
NODE_LOSS_SECONDS = 60  # tolerationSeconds of a member on a node that is gone

# Tokens and certificates.
MEMBER_TOKEN_SECONDS = 3600
CLOCK_LEEWAY_SECONDS = 10  # by which a token may be from the future
KEYS_LIFE_SECONDS = 3600.0
KEYS_REFRESH_SECONDS = 10.0  # at most so often for tokens with a key that nobody knows
REFUSED_TOKEN_SECONDS = 60.0  # it is not asked about again
CA_DAYS = 3650
SERVING_DAYS = 365
PREPARE_CA_DAYS = 365  # before the end, the next authority is made
PROMOTE_CA_DAYS = 335  # before the end, the next authority starts to sign
RENEW_SERVING_DAYS = 120
CERTIFICATE_CHECK_SECONDS = 600.0
SWEEP_SECONDS = 600.0  # between two looks for objects without a job
CARETAKER_RETRY_SECONDS = 5.0

# Answers to others.
TRIAL_CPU_SECONDS = 2  # of the process that runs a chat template
TRIAL_WALL_SECONDS = 60.0  # the same, on a busy machine
REVIEW_TRIAL_SECONDS = 2.5  # of the same, while the API server waits for the webhook
REVIEW_WAIT_SECONDS = 1.0  # for the trial of somebody else
METRICS_FRESH_SECONDS = 1.0  # scrapes within it share one answer
HTTP_READ_SECONDS = 10.0  # to send a request, and to read its answer
REVIEW_TURN_SECONDS = 1.0  # a review waits so long for its turn, then the webhook is busy
WEBHOOK_IDLE_SECONDS = 100.0  # longer than the API server keeps an idle connection (90 s): it is the one to close it
CERTIFICATE_READ_SECONDS = 60.0  # between two looks whether the webhook's was renewed
WEBHOOK_RESTART_SECONDS = 2.0
THREAD_STOP_SECONDS = 10.0  # for the feed and the webhook to end

# Local runs.
REDRAW_SECONDS = 0.1
LINE_EVERY_SECONDS = 5.0  # where the output is no terminal
LOCAL_POLL_SECONDS = 0.02
FAREWELL_SECONDS = 10.0
INTERRUPT_SAVE_SECONDS = 20.0
PROCESS_POLL_SECONDS = 0.01
