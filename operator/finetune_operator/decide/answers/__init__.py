"""What a pass answers: creations, deletions, orders, events, and where the job stands."""
