"""The child that tells an experiment tracker every step once: the only process with wandb."""
