"""Files that survive a kill: written whole or not at all, locked, checked when read."""
