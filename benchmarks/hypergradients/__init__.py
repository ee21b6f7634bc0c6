"""What hypergradients cost, method by method and beside PyTorch's libraries."""
