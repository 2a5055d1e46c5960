"""What the operator, the agent and the trainer agree on; it imports nothing of ours and only pydantic from outside."""
