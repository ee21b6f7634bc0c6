"""Networks on data sets, as tasks to train and as problems with hyperparameters to tune."""
