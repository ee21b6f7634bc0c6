"""What this package uses of Keras' private interface is there and does what it did.

A failure here after an update of Keras names what has to be found again; until then the upper bound
of keras in pyproject.toml belongs below the new version. Behind each use stand:

- `layers_of`: kinds of variables, what a model asks for that would be left out, moving statistics;
- `own_trainable_variables`: kinds of variables, of wrapped layers too;
- `seeds_of`: random numbers that go on after a model was loaded;
- `takes_training`: models whose `call` has no `training`, as `fit` calls them;
- `mask_of`, `makes_masks`, `set_mask`: outputs that `fit` leaves out of losses and metrics;
- `loss_tracker`, `loss_weights_of`: the logs and the weighted sum of `mlhf.keras.compile`;
- `is_recomputed`: layers of `keras.RematScope`, which are refused;
- `assignments`: states that would be lost, which are refused, and moving statistics;
- `learning_rate_of`: schedules of `FirstOrder`;
- `has_undecayed_variables`, `has_exclusions`, `decay_like`: `exclude_from_weight_decay` in
  `FirstOrder`;
- `without_sum_over_replicas`: graphs of `FirstOrder` that end; without it memory grows by a graph
  for each compiled step, and nothing else changes.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mlhf import keras_internals as internals
from mlhf.optimizers.settings import is_variable


def _dense(**settings):
    layer = keras.layers.Dense(2, **settings)
    layer.build((None, 3))
    return layer


def test_layers_inside_layers_are_found():
    inner = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2, name="inside")])
    model = keras.Sequential([keras.layers.Input((3,)), inner])
    found = internals.layers_of(model)
    assert found[0] is model and {inner, inner.get_layer("inside")} <= set(found)


def test_own_variables_are_without_the_sublayers():
    wrapper = keras.layers.TimeDistributed(keras.layers.Dense(2))
    wrapper.build((None, 4, 3))
    assert internals.own_trainable_variables(wrapper) == []
    dense = wrapper.layer
    assert internals.own_trainable_variables(dense) == [dense.kernel, dense.bias]


def test_states_of_random_generators_are_found():
    dropout = keras.layers.Dropout(0.5, seed=3)
    model = keras.Sequential([keras.Input([3]), keras.Sequential([dropout]), keras.layers.Dense(1)])
    (found,) = internals.seeds_of(model)
    assert found is dropout.seed_generator.state


def test_models_that_are_told_that_they_train():
    class Told(keras.Model):
        def call(self, inputs, training=False):
            return inputs

    class Untold(keras.Model):
        def call(self, inputs):
            return inputs

    assert internals.takes_training(Told()) and not internals.takes_training(Untold())


def test_outputs_bear_their_mask():
    outputs = keras.layers.Masking()(tf.constant([[[1.0], [0.0]]]))
    np.testing.assert_array_equal(internals.mask_of(outputs), [[True, False]])
    assert internals.mask_of(tf.ones([1])) is None


def test_layers_that_start_masks_are_found_and_outputs_get_a_mask():
    layers = keras.layers

    def of(layer):
        return keras.Sequential([keras.Input([3], dtype="int32"), layer])

    class Starting(layers.Layer):
        def compute_mask(self, inputs, previous_mask=None):
            return inputs > 0

        def call(self, inputs):
            return inputs

    assert internals.makes_masks(of(layers.Embedding(4, 2, mask_zero=True)))
    assert internals.makes_masks(of(Starting()))
    assert internals.makes_masks(keras.Sequential([keras.Input([3, 1]), layers.Masking()]))
    assert not internals.makes_masks(of(layers.Embedding(4, 2)))
    outputs = tf.one_hot([[1, 2]], 3)
    internals.set_mask(outputs, tf.constant([[True, False]]))
    # From Keras 3.6 on, metrics of its own leave out what the mask hides.
    np.testing.assert_array_equal(internals.mask_of(outputs), [[True, False]])


def test_a_compiled_model_has_a_tracker_of_its_loss_and_weights_of_losses():
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
    model.compile("sgd", ["mse"], loss_weights=[0.5])
    assert internals.loss_weights_of(model) == [0.5]
    internals.loss_tracker(model).update_state(3.0, sample_weight=2)
    assert float(model.get_metrics_result()["loss"]) == 3


def test_layers_that_are_recomputed():
    assert not internals.is_recomputed(_dense())
    if not hasattr(keras, "RematScope"):
        pytest.skip("this Keras has no RematScope")
    with keras.RematScope(mode="full"):
        assert internals.is_recomputed(_dense())


def test_every_assignment_in_a_scope_is_seen():
    variable = keras.Variable(1.0)
    with keras.StatelessScope() as scope:
        seen = internals.assignments(scope)
        variable.assign(2.0)
        variable.assign(3.0)
        assert float(scope.get_current_value(variable)) == 3
    assert [(v is variable, float(value)) for v, value in seen] == [(True, 2.0), (True, 3.0)]
    assert float(variable) == 1


def test_a_learning_rate_is_a_variable_or_a_schedule():
    rate = internals.learning_rate_of(keras.optimizers.SGD(0.5))
    assert is_variable(rate) and float(rate) == 0.5
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
    assert internals.learning_rate_of(keras.optimizers.SGD(schedule)) is schedule


def test_a_variable_decays_like_another():
    layer, like = _dense(), _dense()
    optimizer = keras.optimizers.SGD(1.0, weight_decay=0.5)
    assert not internals.has_undecayed_variables(optimizer)
    optimizer.exclude_from_weight_decay(var_list=[layer.bias])
    assert internals.has_undecayed_variables(optimizer) and internals.has_exclusions(optimizer)
    by_name = keras.optimizers.SGD(1.0, weight_decay=0.5)
    by_name.exclude_from_weight_decay(var_names=["bias"])
    assert internals.has_exclusions(by_name)
    for variable, original in zip(like.variables, layer.variables, strict=True):
        internals.decay_like(optimizer, variable, original)
        variable.assign(tf.ones_like(variable))
    optimizer.build(like.variables)
    optimizer.apply([tf.zeros(v.shape) for v in like.variables])
    np.testing.assert_array_equal(like.kernel, np.full([3, 2], 0.5))
    np.testing.assert_array_equal(like.bias, np.ones(2))


@pytest.mark.parametrize("left_out", [False, True])
def test_the_sum_over_replicas_is_left_out(left_out):
    variable = keras.Variable(1.0)
    optimizer = keras.optimizers.SGD(0.5)
    optimizer.build([variable])
    summed = []
    # An optimizer calls this before it applies gradients; it sums them over replicas.
    kind = next(c for c in type(optimizer).__mro__ if "_all_reduce_sum_gradients" in vars(c))
    original = kind._all_reduce_sum_gradients
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            kind,
            "_all_reduce_sum_gradients",
            lambda self, pairs: summed.append(1) or original(self, pairs),
        )
        if left_out:
            with internals.without_sum_over_replicas(optimizer):
                optimizer.apply([tf.constant(1.0)])
        else:
            optimizer.apply([tf.constant(1.0)])
    assert len(summed) == (not left_out)
    assert float(variable) == 0.5
    assert "_all_reduce_sum_gradients" not in vars(optimizer)
