"""Traced graphs: copies of them, tangents through what they call, and what they read."""
