"""The networks of the paper, as Keras models."""
