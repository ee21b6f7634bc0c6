"""What the command lines are made of: flags, help, exit statuses.

Nothing in here imports TensorFlow: help and wrong flags are answered before it is loaded.
"""
