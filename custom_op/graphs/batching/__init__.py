"""Traced functions on many vectors at once: operations that carry an extra axis."""
