"""What the status says: progress, conditions, columns, goodput, warnings, the adapter."""
