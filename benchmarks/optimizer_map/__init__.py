"""The map: tasks by optimizers, made anew by one command."""
