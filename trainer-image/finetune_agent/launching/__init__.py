"""The zygote, the launchers that it forks, and the workers that they fork: the only processes with torch."""
