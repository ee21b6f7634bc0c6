"""One of two processes: asserts what replicas do with a Keras model, seeds and other weights.

python -m tests.mlhf.distribute.keras_training
"""

import keras
import numpy as np
import tensorflow as tf

import mlhf
from mlhf.distribute import DataParallel

EXAMPLES, FEATURES = 8, 3
X = np.random.default_rng(0).normal(size=(EXAMPLES, FEATURES)).astype(np.float32)
LABELS = np.arange(EXAMPLES, dtype=np.int32) % 2


def make_model():
    layers = [
        keras.Input((FEATURES,)),
        keras.layers.BatchNormalization(momentum=0.0),
        keras.layers.Dropout(0.5, seed=3),
        keras.layers.Dense(2, kernel_initializer=keras.initializers.GlorotUniform(4)),
    ]
    return keras.Sequential(layers)


def check_states_and_seeds(parallel):
    """Moving statistics are averages over the shares; seeds go on as on one device."""
    model, part = make_model(), X[:3] if parallel.process == 0 else X[3:]
    labels = LABELS[:3] if parallel.process == 0 else LABELS[3:]
    parameters = mlhf.get_parameters(model)
    alone = mlhf.Objective(model, "softmax_cross_entropy", X, LABELS)
    one = mlhf.HessianFree().step(alone, parameters, mlhf.HessianFree().init(parameters))
    objective = mlhf.Objective(model, "softmax_cross_entropy", part, labels)
    step = parallel.step(objective, parameters, parallel.init(parameters))
    for name, value in step.model_state.items():
        if name.endswith("moving_mean"):
            np.testing.assert_allclose(value, X.mean(0), 1e-5, 1e-6)
        elif name.endswith("moving_variance"):
            # Of the shares, not of the whole batch.
            average = (3 * X[:3].var(0) + 5 * X[3:].var(0)) / 8
            np.testing.assert_allclose(value, average, 1e-4)
        else:
            assert name.endswith("seed_generator_state"), name
            np.testing.assert_array_equal(value, one.model_state[name])


def check_dropout(parallel):
    """Equal examples on two replicas are dropped at other places."""
    width = 64
    model = keras.Sequential([keras.Input((width,)), keras.layers.Dropout(0.5, seed=3),
                              keras.layers.Dense(2, kernel_initializer="zeros")])  # fmt: skip
    ones, label = tf.ones([1, width]), tf.zeros([1], tf.int32)
    objective = mlhf.Objective(model, "softmax_cross_entropy", ones, label)
    parameters = mlhf.get_parameters(model)
    step = parallel.step(objective, parameters, parallel.init(parameters))
    (kernel,) = (value for value in step.parameters.values() if value.shape.rank == 2)
    # Where one of both replicas alone dropped an input, its weights moved less far; with the same
    # places they would move all or nothing.
    moved = np.abs(np.round(kernel[:, 0] / np.abs(kernel[:, 0]).max(), 2))
    assert len(np.unique(moved)) > 2, np.unique(moved)


def check_other_weights(strategy, parallel):
    """Other initial weights do no harm: all go on with the first process's."""

    def network(parameters, x):
        return x @ parameters

    first = tf.constant([[1.0], [2.0], [3.0]])
    targets = tf.constant(X[:, :1])
    parameters = first if parallel.process == 0 else tf.fill([3, 1], np.nan)
    optimizer = mlhf.FirstOrder(keras.optimizers.SGD(0.0, momentum=0.9))
    sgd = DataParallel(strategy, optimizer)
    state, differed = sgd.init(first), []

    # Inside a user's function, too.
    @tf.function
    def train(x, y, parameters, state):
        objective = mlhf.Objective(network, "squared_error", x, y)
        return sgd.step(objective, parameters, state)

    for _ in range(2):
        step = train(tf.constant(X), targets, parameters, state)
        parameters, state = step.parameters, step.state
        differed.append(float(step.metrics["synchronized"]))
    np.testing.assert_array_equal(parameters, first)
    assert differed == [1, 0]
    assert int(parallel.from_first_process(parallel.process + 7)) == 7
    assert parallel.in_any_process(parallel.process == 1)
    assert not parallel.in_any_process(False)


def main():
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    parallel = DataParallel(strategy, mlhf.HessianFree())
    check_states_and_seeds(parallel)
    check_dropout(DataParallel(strategy, mlhf.HessianFree(x_use="zero")))
    check_other_weights(strategy, parallel)


if __name__ == "__main__":
    main()
