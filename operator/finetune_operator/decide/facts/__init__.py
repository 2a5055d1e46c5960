"""The facts of one pass: what was observed, the gang it makes up, and the line it stands in. Nothing here judges."""
