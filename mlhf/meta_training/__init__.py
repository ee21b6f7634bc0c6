"""How the learned optimizer is learned: by backpropagation and by evolution strategies."""
