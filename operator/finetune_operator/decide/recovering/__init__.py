"""Losses and failures: evidence, what explains it, what is done about it, and the next formation."""
