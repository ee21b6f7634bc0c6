"""Checks of what users pass: arguments, networks, structures, targets."""
