"""The facts of one pass: what was observed, the gang it makes up, the line it stands in, and who places it. Nothing here judges."""
