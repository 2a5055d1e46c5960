"""The local run: the same reconcile over processes of one machine."""
