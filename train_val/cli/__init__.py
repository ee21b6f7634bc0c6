"""The parts of the command lines: flags, help, exit statuses.

Nothing here imports TensorFlow: help and wrong flags are answered before it is loaded.
"""
