"""Random small Keras models: a step against `train_on_batch`, products against dense matrices.

One integer is one model: sequential, functional, or subclassed in one of the ways in which people
write `call`; of dense layers, convolutions, poolings, normalisations, dropout, embeddings and
attention, with layers frozen or constrained; with a loss by Keras' name, as an object, or by this
package's name, and outputs that are logits or have passed the loss's activation. All in float64.
"""

from __future__ import annotations

import keras
import numpy as np

from benchmarks.random_cases.keras_models import checks, models
from benchmarks.random_cases.outcome import FAILED, OK, Outcome


def run_case(seed: int, thorough: bool = False) -> Outcome:
    """Makes a model and compares it.

    Args:
      seed: Which model.
      thorough: Whether products are compared for every model, and under XLA too; otherwise for one
        in four.

    Returns:
      What became of it, with the mode `"step"` and those of products.
    """
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    # Once anything in the process has set a policy, layers no longer look at floatx.
    keras.config.set_dtype_policy("float64")
    try:
        case = models.generate(np.random.default_rng(seed), seed)
        outcome = Outcome(seed, features=case.features, program=case.text)
        modes = ["step"]
        if thorough or seed % 4 == 0:
            modes += ["graph", "eager"] + ["xla"] * thorough
        for mode in modes:
            try:
                checks.check(case, mode)
                outcome.modes[mode] = OK
            except Exception as error:
                outcome.modes[mode] = FAILED
                outcome.notes.append(f"{mode}: {type(error).__name__}: {str(error)[:700]}")
    finally:
        keras.config.set_dtype_policy(policy)
        keras.config.set_floatx(floatx)
    outcome.checked = ["loss", "weights", "state"] + ["J v", "G v"] * (len(modes) > 1)
    return outcome
