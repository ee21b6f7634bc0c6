"""What long runs share: checkpoints, records of metrics, progress bars, times to save."""
