"""Where snapshots are kept: in memory or in a directory."""
