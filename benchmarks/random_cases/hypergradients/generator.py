"""A random training problem, made from one integer: what both the reference and the library run.

The training loss of step t is Σ_k d_k f_k(<a_tk, w> - y_k) + Σ_i l_i w_i², with functions f_k drawn
from a few smooth ones, the rows a_tk of the step's own batch, weights of examples d, targets y and
penalties l; the validation loss is of the same kind, plus κ w_0.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

# Convex ones, of which every problem has some, and others.
CONVEX = ("half_square", "log_cosh", "softplus")
SMOOTH = (*CONVEX, "sine", "tanh", "bell")
DYNAMICS = (
    *("gd", "M1", "M2", "M3", "M4", "M1 nesterov", "M2 nesterov", "M3 nesterov"),
    *("M4 nesterov", "adam", "adam", "M2", "gd"),
)
REVERSIBLE = ("M1", "M2", "M4")
OWN = ("learning_rate", "momentum", "beta1", "beta2")
LEAVES = ((2,), (3, 2), (2, 1, 2))


@dataclasses.dataclass
class Case:
    """A problem.

    Attributes:
      seed: The integer that the problem is made from.
      dynamics: One of `DYNAMICS`.
      steps: The number of steps, T.
      sizes: The sizes of the weights' leaves; each leaf is a group.
      functions: The names of the f_k, and of the validation loss's functions.
      rows: The a_tk, [T, K, P], and the rows of the validation loss, [V, P].
      targets: The targets of the validation loss, [V].
      hyper: The hyperparameters to differentiate: arrays by name.
      fixed: The other hyperparameters, by name.
      schedules: The hyperparameters of the loss that have one row per step.
      start: "given" weights, "initial_weights" as a hyperparameter, or a "scale" of noise.
    """

    seed: int
    dynamics: str
    steps: int
    sizes: tuple[int, ...]
    functions: tuple[list[str], list[str]]
    rows: tuple[np.ndarray, np.ndarray]
    targets: np.ndarray
    hyper: dict[str, np.ndarray]
    fixed: dict[str, np.ndarray]
    schedules: list[str]
    start: str

    @property
    def kind(self) -> str:
        """The dynamics without its variant."""
        return self.dynamics.split()[0]

    @property
    def nesterov(self) -> bool:
        """Whether it is Nesterov's variant."""
        return self.dynamics.endswith("nesterov")

    def value(self, values: dict[str, Any], name: str) -> Any:
        """Returns one of the hyperparameters, differentiated or not."""
        return values[name] if name in values else self.fixed[name]


def make(seed: int) -> Case:
    """Returns the case of an integer."""
    rng = np.random.default_rng([17, seed])
    dynamics = str(rng.choice(DYNAMICS))
    steps = int(rng.integers(1, 7))
    sizes = LEAVES[rng.integers(len(LEAVES))]
    size, examples, valid = sum(sizes), int(rng.integers(2, 5)), int(rng.integers(2, 4))
    every = {
        "learning_rate": _own(rng, steps, len(sizes), 0.03, 0.2),
        "momentum": np.round(_own(rng, steps, len(sizes), 0.3, 0.9) * 2**16) / 2**16,
        "beta1": _own(rng, steps, len(sizes), 0.3, 0.9),
        "beta2": _own(rng, steps, len(sizes), 0.8, 0.99),
        "l2": rng.uniform(0.0, 0.3, size=[len(sizes)] if rng.integers(2) else []),
        "data": rng.uniform(0.2, 1.5, size=examples),
        "targets": rng.normal(size=examples),
        "kappa": rng.normal(size=[]),
        "initial_weights": rng.normal(size=size),
        "initial_velocity": 0.3 * rng.normal(size=size),
        "scale": rng.uniform(0.5, 1.5, size=[]),
    }
    schedules = []
    if rng.integers(3) == 0:
        every["l2"] = rng.uniform(0.0, 0.3, size=[steps, *every["l2"].shape])
        schedules.append("l2")
    start = str(rng.choice(["given", "given", "initial_weights", "scale"]))
    of_dynamics = {"gd": OWN[:1], "adam": (OWN[0], *OWN[2:])}.get(dynamics, OWN[:2])
    possible = [*of_dynamics, "l2", "data", "targets", "kappa"]
    if start != "given":
        possible.append(start)
    if "momentum" in of_dynamics:
        possible.append("initial_velocity")
    chosen = [name for name in possible if rng.integers(2)] or [possible[0]]
    start = start if start in chosen else "given"
    schedules = [name for name in schedules if name in chosen]
    if "l2" not in chosen:
        every["l2"] = np.asarray(0.1)
    for name in OWN:  # not differentiated, they are constants of the dynamics
        if name not in chosen:
            every[name] = np.asarray(every[name].ravel()[0])
    return Case(
        seed,
        dynamics,
        steps,
        sizes,
        ([*rng.choice(SMOOTH, examples)], [*rng.choice(SMOOTH, valid)]),
        (rng.normal(size=[steps, examples, size]), rng.normal(size=[valid, size])),
        rng.normal(size=valid),
        {name: every[name] for name in sorted(chosen)},
        {name: value for name, value in every.items() if name not in chosen},
        schedules,
        start,
    )


def make_convex(seed: int) -> Case:
    """Returns a case whose first step's loss has one minimum, moved by its hyperparameters."""
    case = make(seed)
    rng = np.random.default_rng([18, seed])
    every = {**case.fixed, **case.hyper}
    every["l2"] = rng.uniform(0.5, 1.5, size=[len(case.sizes)] if rng.integers(2) else [])
    possible = ["l2", "data", "targets", "kappa"]
    chosen = [name for name in possible if rng.integers(2)] or ["l2"]
    if chosen == ["kappa"]:
        chosen.append("l2")
    for name in OWN:
        every[name] = np.asarray(every[name].ravel()[0])
    return dataclasses.replace(
        case,
        functions=([*rng.choice(CONVEX, len(case.functions[0]))], case.functions[1]),
        hyper={name: every[name] for name in sorted(chosen)},
        fixed={name: value for name, value in every.items() if name not in chosen},
        schedules=[],
        start="given",
    )


def _own(rng: np.random.Generator, steps: int, groups: int, low: float, high: float) -> np.ndarray:
    """Draws one value, one per step, one per group, or both, in unambiguous shapes."""
    shape = [[], [steps, 1], [1, groups], [steps, groups]][rng.integers(4)]
    return rng.uniform(low, high, size=shape)
