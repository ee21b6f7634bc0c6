"""The methods: each takes a problem, weights and hyperparameters, and returns a `Result`."""
