"""Networks on data sets, as tasks and as problems whose hyperparameters are tuned."""
