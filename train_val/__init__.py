"""The command lines, and the networks and data sets that they use."""

import os

# TensorFlow reads this once, when it is imported: warnings about this machine's processor and
# missing GPU would only hide what a command says.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
