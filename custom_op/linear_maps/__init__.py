"""Linear maps with their transposes, the building blocks of rules."""
