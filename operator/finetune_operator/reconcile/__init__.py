"""One pass: observe, decide, apply, report, over ports that pods or local processes implement."""
