"""From priorities to probabilities: rank-based and proportional, with their trees."""
