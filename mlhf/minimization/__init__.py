"""One call that minimizes an objective: the loop, when it stops, and what it returns."""
