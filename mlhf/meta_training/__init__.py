"""Meta-training: how an optimizer is learned, by backpropagation or by evolution strategies."""
