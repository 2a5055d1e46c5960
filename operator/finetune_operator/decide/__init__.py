"""Decisions: pure functions from what was observed to one value. No I/O, no clock."""
