"""Linear maps with their transposes, which rules of operations are made of."""
