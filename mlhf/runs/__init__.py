"""What long runs share: checkpoints, logs, progress, when they save."""
