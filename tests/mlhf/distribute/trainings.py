"""Small trainings for one process, and as a command for one of several.

    python -m tests.mlhf.distribute.trainings STRATEGY OUT.npz CASE ...

STRATEGY is `mirrored` or `worker`, whose cluster TF_CONFIG describes.
"""

import functools
import sys

import numpy as np
import tensorflow as tf

import custom_op
import mlhf
from mlhf.distribute import DataParallel

EXAMPLES, STEPS = 12, 5
X = np.random.default_rng(0).normal(size=(STEPS, EXAMPLES, 4))
LABELS = np.random.default_rng(1).integers(0, 3, (STEPS, EXAMPLES)).astype(np.int32)
# Half of the first share is ignored, none of the second.
SOME = np.where(np.arange(EXAMPLES) < 3, -1, LABELS).astype(np.int32)
L2 = mlhf.L2(0.01)
WEIGHTS = np.linspace(0.5, 2, EXAMPLES)

OPTIMIZERS = {
    "hf": functools.partial(mlhf.HessianFree, 0.5, 0.1, 3, damping_type="LM_heuristics"),
    "hf with nystrom": functools.partial(
        mlhf.HessianFree, 0.5, 0.1, 2, preconditioner=mlhf.NystromPreconditioner(5)
    ),
    "martens": functools.partial(mlhf.MartensHessianFree, 1.0, 6),
    "meta": functools.partial(mlhf.MetaHessianFree, 0.5, damping=0.1, longest_step=0.25),
    "kfac": functools.partial(
        mlhf.KFAC, damping=0.1, factor_share=1.0, damping_type="LM_heuristics", adapt_every=2
    ),
    "kfac with a rate": functools.partial(mlhf.KFAC, 0.1, 0.1, factor_share=1.0),
    "muon with curvature": functools.partial(mlhf.CurvatureMuon, 10, curvature_share=1.0),
    "muon with a controller": functools.partial(mlhf.MetaMuon, 10, curvature_share=1.0),
    "muon": functools.partial(mlhf.Muon, 0.3),
    "adam": lambda: mlhf.FirstOrder(_adam),
}
CASES = {
    **{name: (name, {}) for name in OPTIMIZERS},
    "ignored": ("martens", {"ignore": True}),
    "ignored by kfac": ("kfac with a rate", {"ignore": True}),
    "weighted": ("hf", {"weights": True}),
    **{
        f"weighted, {name}": (name, {"weights": True})
        for name in ("hf with nystrom", "martens", "meta", "kfac", "kfac with a rate")
    },
    "weighted and ignored by kfac": ("kfac with a rate", {"weights": True, "ignore": True}),
    "weighted, muon with curvature": ("muon with curvature", {"weights": True}),
    "a sum": ("hf", {"terms": 2}),
    "uneven": ("hf", {"size": 11}),
}


def _adam():
    import keras

    return keras.optimizers.Adam(0.1)


def network(parameters, x):
    hidden = tf.tanh(x @ parameters["dense"]["kernel"] + parameters["dense"]["bias"])
    return hidden @ parameters["dense_1"]["kernel"] + parameters["dense_1"]["bias"]


def start(dtype=tf.float64):
    random = np.random.default_rng(2)
    shapes = {"dense": (4, 5), "dense_1": (5, 3)}
    return {
        name: {
            "kernel": tf.constant(random.normal(size=shape), dtype),
            "bias": tf.zeros(shape[1:], dtype),
        }
        for name, shape in shapes.items()
    }


def objective(step, part=slice(None), dtype=tf.float64, ignore=False, weights=False, terms=1,
              size=EXAMPLES, regularizer=L2):  # fmt: skip
    """Returns the objective of a step on a part of its batch."""
    if terms > 1:
        steps = [(step + k) % STEPS for k in range(terms)]
        parts = {f"term_{k}": objective(s, part, dtype, regularizer=None) for k, s in
                 enumerate(steps)}  # fmt: skip
        return mlhf.ObjectiveSum(parts, {"term_1": 0.5}, L2)
    return mlhf.Objective(
        network,
        _IGNORING if ignore else "softmax_cross_entropy",
        tf.constant(X[step, :size][part], dtype),
        tf.constant((SOME if ignore else LABELS)[step, :size][part]),
        regularizer=regularizer,
        weights=tf.constant(WEIGHTS[:size][part], dtype) if weights else None,
    )


_IGNORING = custom_op.losses.SoftmaxCrossEntropy(ignore_index=-1)


def trained(
    case, wrap=lambda optimizer: optimizer, part=slice(None), dtype=tf.float64, steps=STEPS
):
    """Returns the parameters after some steps, as one vector, and the last loss."""
    name, how = CASES[case]
    optimizer = wrap(OPTIMIZERS[name]())
    parameters = start(dtype)
    state = optimizer.init(parameters)
    for step in range(steps):
        one = objective(step, part, dtype, **how)
        parameters, state, _, metrics = optimizer.step(one, parameters, state)
    flat = np.concatenate([np.ravel(leaf) for leaf in tf.nest.flatten(parameters)])
    return np.append(flat, metrics["loss"])


def mirrored():
    """Returns a strategy with two devices in this process, which are both its processor."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def part_of(case, worker):
    """Returns the part of a batch that one of two processes has."""
    # Parts may differ in size; only K-FAC's draws are then others than those of one device.
    half = EXAMPLES // 2 if "kfac" in case else 5
    return slice(half) if worker == 0 else slice(half, None)


def main(kind, out, *cases):
    strategy = tf.distribute.MultiWorkerMirroredStrategy() if kind == "worker" else mirrored()
    results = {}
    for case in cases:
        everything = kind == "mirrored"
        part = slice(None) if everything else part_of(case, strategy.cluster_resolver.task_id)
        results[case] = trained(case, functools.partial(DataParallel, strategy), part)
    np.savez(out, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
