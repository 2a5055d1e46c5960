"""How long the operator waits for what. Seconds, unless a name says otherwise."""

TURN_SECONDS = 30.0  # the line waits so long for a gang none of whose pods finds a node
SHORTEST_TURN_SECONDS = 10.0  # of a gang that gave back before
LONGEST_BLOCK_SECONDS = 300.0  # a running gang that lacks room holds up the line no longer, whatever its placement.timeoutSeconds
FIRST_BACKOFF_SECONDS = 15.0
MAX_BACKOFF_SECONDS = 600.0
MAX_FAILED_STARTS = 3  # a number: placed so often and never started ends the job
SECONDS_A_SILENT_END = 60.0  # about one member in a minute ends silently when none ever speaks
BACKOFF_JITTER = 0.25  # share of the back-off by which gangs that gave back together are spread to either side
