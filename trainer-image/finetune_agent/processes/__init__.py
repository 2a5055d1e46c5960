"""What the kernel knows of processes and of memory that they share."""
