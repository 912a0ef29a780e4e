"""Training: loop, checkpoints, selection."""
