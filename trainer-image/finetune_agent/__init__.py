"""PID 1 of a member: talks to the coordinator, fetches inputs, forks workers, keeps snapshots safe. Trains nothing itself."""
