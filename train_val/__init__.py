"""Networks, data sets and command lines."""
