"""Makes an optimizer from the flags of `use_meta_optimizer.py`.

`optimizer_table.py` lists them; a new optimizer is a row there.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

import mlhf
from mlhf.checks.arguments import check_number
from mlhf.meta_optimizer import weights_file
from train_val.training import optimizer_table
from train_val.training.optimizer_table import RULE, Known

# The optimizers of Keras, except those that are made of other optimizers; another version of Keras
# may lack some.
KERAS = {
    known.path.rpartition(".")[2]: known.load()
    for known in optimizer_table.TABLE
    if known.of_keras and known.load() is not None
}
NAMES = tuple(
    known.name
    for known in optimizer_table.TABLE
    if known.flags is not None and known.load() is not None
)
# Weights are trained for one value of each of these; the other settings may be varied.
_FIXED = ("x_use", "y_use", "d_use", "input_scale", "inputs")


class Chosen(NamedTuple):
    """An optimizer, with the settings that identify it and notes for the user."""

    optimizer: Any
    settings: dict[str, Any]  # what identifies it, for checkpoints
    notes: list[str]  # sentences for the user


def make(
    name: str,
    *,
    lr: float | None = None,
    momentum: float = 0.9,
    beta1: float = 0.9,
    beta2: float = 0.999,
    decay: float = 0.9,
    meta_ckpt: str | None = None,
    rule: Mapping[str, Any] | None = None,
    given: frozenset[str] | set[str] = frozenset(),
    product_dtype: str | None = None,
    jit_compile: bool = False,
    detailed: bool = False,
) -> Chosen:
    """Returns an optimizer by its name.

    Args:
      name: One of `NAMES`, in any case. `"meta"` with `y_use` and `d_use` both `"none"` is plain
        Hessian-free, `mlhf.HessianFree`, and needs no `meta_ckpt`.
      lr: The learning rate; None for that of the table, or the optimizer's own.
      momentum: The momentum of `"momentum"`.
      beta1: The decay of the first moment of `"adam"`.
      beta2: The decay of the second moment of `"adam"`.
      decay: For `"RMSprop"`, the share of the mean square that is kept per step; for `"kfac"`, the
        share of its factors, and for `"martens"` the factor of its damping, if given.
      meta_ckpt: For `"meta"`: a folder of a meta-training, a file, or a name that ships with the
        package.
      rule: For `"meta"`: `CG_iter`, `x_use`, `y_use`, `d_use`, `input_scale`, `inputs`,
        `damping_scale`, `damping`, `damping_type`, `decay` and `curvature_share`, the share of a
        batch that the curvature is computed on; for `"kfac"` the dampings and `decay`, and
        for `"martens"` these, `CG_iter` and `curvature_share`.
      given: The names in `rule`, and `"lr"`, that the user gave. The others are taken from the
        `meta_ckpt`, since a rule works best with the settings that it was trained with; for
        `"kfac"` and `"martens"` they are the defaults of the class.
      product_dtype: The precision of products, as for `mlhf.MetaHessianFree`; only for MLHF and
        plain Hessian-free.
      jit_compile: Whether a step is compiled with XLA.
      detailed: Whether `"meta"` also measures numbers that cost one more curvature product.

    Returns:
      The optimizer, its settings, and notes for the user.

    Raises:
      ValueError: If a name is not known, a `meta_ckpt` is needed and missing, or settings
        contradict it.
      FileNotFoundError: If there is no `meta_ckpt` at its path.
    """
    known = optimizer_table.find(name)
    if known is None or known.name not in NAMES:
        raise ValueError(f"Expected optimizer to be one of {list(NAMES)}, got {name!r}.")
    rule = dict(rule or {})
    if known.name == "meta":
        if rule.get("y_use") == "none" and rule.get("d_use") == "none":
            return _hessian_free(lr, rule, meta_ckpt, set(given), product_dtype, jit_compile)
        return _meta(lr, rule, meta_ckpt, set(given), product_dtype, jit_compile, detailed)
    if product_dtype is not None:
        raise ValueError(
            f"Expected product_dtype with optimizer=meta only, got it with {known.name}, which has "
            "no products of the Gauss-Newton matrix in another dtype; leave it out."
        )
    values = {"lr": lr, "momentum": momentum, "beta1": beta1, "beta2": beta2}
    if known.of_keras:
        chosen = _first_order(known, {**values, "decay": decay}, jit_compile)
    else:
        chosen = _second_order(known, {**values, **rule}, set(given), jit_compile)
    return chosen._replace(notes=[*chosen.notes, *_unused(known, meta_ckpt, set(given))])


def with_schedule(chosen: Chosen, kind: str, horizon: int, warmup: float) -> Chosen:
    """Returns an optimizer whose learning rate rises and falls.

    Args:
      chosen: The optimizer, with a number as its learning rate.
      kind: The fall, as for `mlhf.Schedule`.
      horizon: The number of steps at whose end it has fallen.
      warmup: The steps of the rise, or a share of the horizon.

    Raises:
      ValueError: If the optimizer has no learning rate, or the numbers do not fit.
    """
    rate = getattr(chosen.optimizer, "learning_rate", None)
    if rate is None:
        raise ValueError("Expected an optimizer with a learning rate for a schedule, got none.")
    schedule = mlhf.Schedule(float(rate), kind, horizon, warmup)
    chosen.optimizer.learning_rate = schedule
    note = f"Learning rate: {kind}, {rate:g} at most, {horizon} steps, warm-up {warmup:g}."
    return chosen._replace(
        settings={**chosen.settings, "schedule": json.dumps(schedule.get_config())},
        notes=[*chosen.notes, note],
    )


def _unused(known: Known, meta_ckpt: str | None, given: set[str]) -> list[str]:
    """Returns a sentence about given flags that this optimizer has no use for, in a list."""
    # A note and not an error: scripts give all optimizers the same flags.
    left_out = [] if meta_ckpt is None else ["meta_ckpt"]
    left_out += sorted(given & set(RULE) - set(known.flags or ()))
    return [f"{known.name} has no use for {', '.join(left_out)}."] if left_out else []


def _first_order(known: Known, values: dict[str, Any], jit_compile: bool) -> Chosen:
    rate = known.rate if values["lr"] is None else values["lr"]
    values = {**values, "lr": check_number("lr", rate, above=0)}
    arguments = {argument: values[flag] for flag, argument in (known.flags or {}).items()}

    def build() -> Any:
        return known.load()(**arguments)

    optimizer = mlhf.FirstOrder(build, jit_compile=jit_compile)
    # Without its name, which Keras numbers within a process.
    config = {key: value for key, value in build().get_config().items() if key != "name"}
    return Chosen(optimizer, {"rule": json.dumps(config, default=str)}, [])


def _second_order(
    known: Known, values: dict[str, Any], given: set[str], jit_compile: bool
) -> Chosen:
    if known.rate is not None and values["lr"] is not None:
        given = given | {"lr"}
    # Settings that were not given are those of the class; a momentum goes with a rate.
    used = given | {"momentum"} if "lr" in given else given - {"momentum"}
    arguments = {
        argument: values[flag]
        for flag, argument in (known.flags or {}).items()
        if flag in used and flag in values
    }
    optimizer = known.load()(**arguments, jit_compile=jit_compile)
    note = f"{known.words or known.title}: {_listed(arguments) or 'its own settings'}"
    if known.name == "kfac" and "lr" not in given:
        note += "; rate and momentum by the quadratic model"
    return Chosen(optimizer, {"rule": json.dumps(arguments)}, [f"{note}."])


def _hessian_free(
    lr: float | None,
    rule: dict[str, Any],
    meta_ckpt: str | None,
    given: set[str],
    product_dtype: str | None,
    jit_compile: bool,
) -> Chosen:
    if meta_ckpt is not None:
        raise ValueError(
            f"y_use=none with d_use=none is plain Hessian-free, which has nothing learned to take "
            f"from meta_ckpt={meta_ckpt}; leave meta_ckpt out, or give the uses that it was "
            "meta-trained with."
        )
    if rule.get("x_use") == "rnn":
        raise ValueError(
            "x_use=rnn with y_use=none and d_use=none is not an optimizer of the paper: expected "
            "x_use=x or x_use=d."
        )
    of_lstms = ("input_scale", "inputs", "damping_scale")
    unused = [flag for flag in of_lstms if flag in given]
    for learned in ("y_use", "d_use", *of_lstms):
        rule.pop(learned, None)
    # Settings that were not given are those of the class: the paper's damping of 2e-5 is for MLHF.
    arguments = {RULE[flag]: value for flag, value in rule.items() if flag in given}
    arguments["learning_rate"] = optimizer_table.default_rate("hf") if lr is None else lr
    optimizer = mlhf.HessianFree(**arguments, product_dtype=product_dtype, jit_compile=jit_compile)
    known = inspect.signature(mlhf.HessianFree).parameters
    used = {f: arguments.get(n, known[n].default) for f, n in RULE.items() if n in known}
    notes = [f"Plain Hessian-free: {_listed(used)}."]
    if unused:
        notes.append(f"Plain Hessian-free has no use for {', '.join(unused)}.")
    settings = {"rule": json.dumps(arguments), **_precision(product_dtype)}
    return Chosen(optimizer, settings, notes)


def _meta(
    lr: float | None,
    rule: dict[str, Any],
    meta_ckpt: str | None,
    given: set[str],
    product_dtype: str | None,
    jit_compile: bool,
    detailed: bool,
) -> Chosen:
    if meta_ckpt is None:
        raise ValueError(
            "optimizer=meta needs meta_ckpt: the folder of a meta-training (its model_dir), or one "
            f"of the names {mlhf.pretrained_names()} that ship with the package. Plain "
            "Hessian-free, y_use=none with d_use=none, needs none."
        )
    # A file may be older than a setting, which then has its default value.
    trained = {**mlhf.MetaHessianFree().settings, **weights_file.read(meta_ckpt).settings}
    asked = {"lr": lr, **rule}
    notes = []
    for flag in _FIXED:
        if flag in given and asked[flag] != trained[flag]:
            raise ValueError(
                f"Expected {flag}={trained[flag]}, which {meta_ckpt} was meta-trained with, got "
                f"{flag}={asked[flag]}; leave it out, or give a meta_ckpt that was meta-trained "
                "so."
            )
    overrides = {RULE[flag]: asked[flag] for flag in RULE if flag in given and flag in asked}
    taken = {flag: trained[RULE[flag]] for flag in RULE if RULE[flag] not in overrides}
    if taken:
        notes.append(f"From {meta_ckpt}: {_listed(taken)}.")
    differing = {
        flag: trained[name]
        for flag, name in RULE.items()
        if name in overrides and overrides[name] != trained[name]
    }
    if differing:
        used = _listed({flag: asked[flag] for flag in differing})
        notes.append(f"{meta_ckpt} was meta-trained with {_listed(differing)}; using {used}.")
    others: dict[str, Any] = {"detailed": True} if detailed else {}
    optimizer = mlhf.MetaHessianFree.from_pretrained(
        meta_ckpt,
        **overrides,
        product_dtype=product_dtype,
        jit_compile=jit_compile,
        **others,
    )
    settings = {
        "rule": json.dumps(optimizer.settings),
        "weights": weights_digest(optimizer.weights),
    }
    return Chosen(optimizer, {**settings, **_precision(product_dtype)}, notes)


def weights_digest(weights: Any) -> str:
    """Returns a digest of a meta-optimizer's weights, which identifies them."""
    digest = hashlib.sha256()
    for leaf in tf.nest.flatten(weights):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def _precision(product_dtype: str | None) -> dict[str, Any]:
    """Returns the part of a run's settings about the dtype; older runs have none."""
    return {} if product_dtype is None else {"product_dtype": product_dtype}


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{flag}={value}" for flag, value in settings.items())
