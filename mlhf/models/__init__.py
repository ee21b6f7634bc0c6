"""Keras models as pure functions of parameters and state, and checks of what they ask for."""
