"""The flags of each command."""
