"""Random small networks: products of derivatives and one step against dense float64 matrices.

Each integer gives a network, three to six operations deep, from all operations with a rule, with
shared values, branches, loops, called functions, gradients and recomputed pieces. It is a program
of a few lines, which is printed if it fails.
"""

from __future__ import annotations

from benchmarks.random_cases.networks import checks, program, reference
from benchmarks.random_cases.outcome import NO_REFERENCE, Outcome

ATTEMPTS = 5  # to find a network with accurate finite differences


def modes_of(seed: int) -> tuple[str, ...]:
    """Returns the modes of a network: all run in graphs, one in sixteen in each other mode."""
    return {0: ("graph", "eager"), program.XLA: ("graph", "xla")}.get(seed % 16, ("graph",))


def run_case(seed: int, thorough: bool = False) -> Outcome:
    """Makes a network and compares its derivatives.

    Args:
      seed: The seed of the network.
      thorough: Whether to compare everything in all modes; otherwise Jᵀu and a step are compared
        for one network in four, in the modes of `modes_of`.

    Returns:
      The outcome.
    """
    modes = checks.MODES if thorough else modes_of(seed)
    every = thorough or seed % 4 == 0
    drawn, known = None, None
    for attempt in range(ATTEMPTS):
        try:
            drawn = program.generate(seed, attempt)
        except LookupError:
            continue  # TensorFlow's own gradient, a part of this network, is missing or NaN
        known = reference.compute(drawn, seed)
        if known.known:
            break
    if drawn is None or known is None:
        notes = ["TensorFlow has no gradient of an operation whose gradient is part of it."]
        return Outcome(seed, modes=dict.fromkeys(modes, NO_REFERENCE), notes=notes)
    outcome = Outcome(seed, features=drawn.features, program=str(drawn))
    if not known.known:
        outcome.modes = dict.fromkeys(modes, NO_REFERENCE)
        outcome.notes = ["Finite differences at three steps disagree."]
        return outcome
    for mode in modes:
        state, note = checks.check(drawn, known, mode, every=every)
        outcome.modes[mode] = state
        if note:
            outcome.notes.append(note)
    outcome.checked = [name for name in known.products if every or name != "JT u"]
    outcome.checked += ["step"] if every and drawn.weights is None else []
    return outcome
