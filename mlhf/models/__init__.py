"""Keras models as pure functions of their parameters and state, and what they ask for."""
