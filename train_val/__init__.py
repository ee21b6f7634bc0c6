"""Networks, data sets and command lines."""

import os

# TensorFlow reads this once, when it is imported: warnings about this machine's processor and
# missing GPU stay out of the way of what a command says.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
