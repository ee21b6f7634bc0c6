"""Training in fixed point that runs backwards to its first bits."""
