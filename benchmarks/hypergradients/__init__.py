"""The cost of hypergradients, by method and compared with PyTorch's libraries."""
