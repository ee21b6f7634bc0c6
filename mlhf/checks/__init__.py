"""Checks of what users give: arguments, networks, structures, targets."""
