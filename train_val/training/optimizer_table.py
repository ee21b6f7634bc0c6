"""The table of optimizers: every name that a command line knows, and what it stands for.

A new optimizer is one row of `TABLE`, which makes its name known to `use_meta_optimizer.py
--optimizer`, to `compare_optimizers.py --optimizers`, and to the help of both. Nothing here imports
TensorFlow; a class is loaded when it is asked for.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

_OF_CURVATURE = {"learning_rate": (0.3, 1.0, 3.0)}
_OF_ADAM = {"learning_rate": (1e-3, 3e-3, 1e-2)}
_OF_SGD = {"learning_rate": (0.01, 0.03, 0.1, 0.3)}
_RATE = {"lr": "learning_rate"}

# The settings of a meta-optimizer's rule: flag -> argument of `mlhf.MetaHessianFree`.
RULE = {
    "CG_iter": "cg_iterations",
    "x_use": "x_use",
    "y_use": "y_use",
    "d_use": "d_use",
    "damping": "damping",
    "damping_type": "damping_type",
    "decay": "decay",
    "curvature_share": "curvature_share",
    "input_scale": "input_scale",
    "damping_scale": "damping_scale",
    "inputs": "inputs",
    "lr": "learning_rate",
}
_DAMPINGS = {flag: flag for flag in ("damping", "damping_type", "decay")}


@dataclasses.dataclass(frozen=True)
class Known:
    """An optimizer that command lines know by a name.

    Attributes:
      name: The name on a command line, in any case.
      title: The name in tables.
      path: The path of its class, such as `"mlhf.KFAC"` or `"keras.optimizers.Adam"`.
      flags: The flags of `use_meta_optimizer.py` that it uses: flag -> argument of the class. None
        if only specifications offer it and `--optimizer` does not.
      fixed: Arguments that the name sets in a specification.
      grid: The values that a specification tunes over by default: argument -> values.
      rate: The default learning rate; None if the optimizer chooses it.
      own_rate: How the optimizer chooses its learning rate, as text.
      words: The name in sentences, if it differs from the title.
    """

    name: str
    title: str
    path: str
    flags: Mapping[str, str] | None = None
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    grid: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    rate: float | None = None
    own_rate: str = ""
    words: str = ""

    @property
    def of_keras(self) -> bool:
        """Whether its class is one of Keras."""
        return self.path.startswith("keras.")

    def load(self) -> Any:
        """Returns its class; None if this version of Keras does not have it."""
        module, _, name = self.path.rpartition(".")
        return getattr(importlib.import_module(module), name, None)


def _keras(
    title: str,
    rate: float = 0.001,
    *,
    name: str | None = None,
    flags: Mapping[str, str] | None = None,
    fixed: Mapping[str, Any] | None = None,
    grid: Mapping[str, tuple[Any, ...]] = _OF_ADAM,
    kind: str | None = None,
) -> Known:
    """Returns the row of a Keras optimizer, with Keras' own default learning rate."""
    path = f"keras.optimizers.{kind or title}"
    return Known(name or title, title, path, {**_RATE, **(flags or {})}, fixed or {}, grid, rate)


def _own(name: str, rate: float, grid: tuple[float, ...], title: str = "") -> Known:
    """Returns the row of one of this package's optimizers that need no more than a rate."""
    rates = {"learning_rate": grid}
    return Known(name, title or name, f"mlhf.{name}", _RATE, grid=rates, rate=rate)


TABLE = (
    Known(
        "meta",
        "MLHF",
        "mlhf.MetaHessianFree",
        RULE,
        grid=_OF_CURVATURE,
        own_rate="as meta-trained, 1 for plain Hessian-free",
    ),
    # The optimizer that meta-training begins with.
    Known(
        "untrained",
        "MLHF, not trained",
        "mlhf.MetaHessianFree",
        fixed={"cg_iterations": 4},
        grid=_OF_CURVATURE,
    ),
    Known("hf", "HF", "mlhf.HessianFree", fixed={"damping": 1.0}, grid=_OF_CURVATURE, rate=1.0),
    Known(
        "hf_lm",
        "HF, LM heuristic",
        "mlhf.HessianFree",
        fixed={"damping_type": "LM_heuristics"},
        grid=_OF_CURVATURE,
        rate=1.0,
    ),
    Known(
        "kfac",
        "K-FAC",
        "mlhf.KFAC",
        {**_DAMPINGS, **_RATE, "momentum": "momentum"},
        {"damping": 1.0},
        {"learning_rate": (0.03, 0.1, 0.3)},
        own_rate="by its quadratic model",
    ),
    # It searches for the length of its steps and adapts its damping itself.
    Known(
        "martens",
        "Martens' HF",
        "mlhf.MartensHessianFree",
        {**_DAMPINGS, "CG_iter": "cg_iterations", "curvature_share": "curvature_share"},
        grid={"damping": (0.1, 1.0, 10.0)},
        own_rate="by a line search",
        words="Hessian-free as Martens ran it",
    ),
    Known(
        "lm",
        "Levenberg-Marquardt",
        "mlhf.LevenbergMarquardt",
        grid={"damping": (1e-3, 1e-2, 1e-1)},
        own_rate="by its damping",
    ),
    # Some names are from the original, the others from Keras.
    _keras("SGD", 0.01, grid=_OF_SGD),
    _keras(
        "momentum",
        0.01,
        flags={"momentum": "momentum"},
        fixed={"momentum": 0.9},
        grid=_OF_SGD,
        kind="SGD",
    ),
    _keras("Adam", name="adam", flags={"beta1": "beta_1", "beta2": "beta_2"}),
    _keras("RMSprop", flags={"decay": "rho"}, grid={"learning_rate": (3e-4, 1e-3, 3e-3)}),
    *map(_keras, ("Adadelta", "Adafactor", "Adagrad", "AdamW", "Adamax", "Ftrl", "Lamb", "Lion")),
    _keras("Nadam"),
    _own("Muon", 0.02, (0.01, 0.02, 0.04)),
    # They have no rate; a run's number of steps is their horizon.
    Known("CurvatureMuon", "Muon, length from curvature", "mlhf.CurvatureMuon"),
    Known("MetaMuon", "Muon, length learned", "mlhf.MetaMuon"),
    _own("SOAP", 3e-3, (1e-3, 3e-3, 1e-2)),
    # The following have nothing that needs tuning.
    _own("Prodigy", 1.0, (1.0,)),
    _own("ScheduleFreeAdamW", 0.0025, (0.0025,), "Schedule-free AdamW"),
    _own("AMUSE", 0.02, (0.02,)),
)
_BY_NAME = {known.name.lower(): known for known in TABLE}
# The names for `use_meta_optimizer.py --optimizer`, and the names in specifications.
TRAINING = tuple(known.name for known in TABLE if known.flags is not None)
COMPARED = tuple(known.name.lower() for known in TABLE)


def find(name: str) -> Known | None:
    """Returns the row of a name, in any case; None if there is none."""
    return _BY_NAME.get(name.lower())


def default_rate(name: str) -> float | None:
    """Returns the default learning rate of an optimizer.

    Args:
      name: A name in the table, in any case.

    Returns:
      Keras' own default for its optimizers, 1 for plain Hessian-free; None if the optimizer
      chooses the rate: a meta-optimizer as it was meta-trained, `kfac` by its quadratic model,
      `martens` by a line search.
    """
    return _BY_NAME[name.lower()].rate


def rates_in_words() -> str:
    """Returns the default learning rates of all optimizers as text, for the help of `--lr`."""
    rows = [known for known in TABLE if known.flags is not None]
    by_rate: dict[float, list[str]] = {}
    for known in rows:
        if known.rate is not None:
            by_rate.setdefault(known.rate, []).append(known.name)
    common = max(by_rate, key=lambda rate: len(by_rate[rate]))
    own = [f"{known.name}: {known.own_rate}" for known in rows if known.rate is None]
    others = [f"{rate:g} for {', '.join(by_rate[rate])}" for rate in by_rate if rate != common]
    return "; ".join([*own, *others, f"{common:g} for the other optimizers of Keras"])
