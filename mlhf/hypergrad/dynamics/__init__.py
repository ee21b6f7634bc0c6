"""What a step of training does: gradient descent, momentum, Adam."""
