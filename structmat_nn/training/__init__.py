"""Training: optimiser, schedule, checkpoints, metrics, final stages."""
