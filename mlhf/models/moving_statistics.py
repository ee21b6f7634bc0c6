"""Statistics of normalisations over many examples, at the weights as they are, not as they were."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from mlhf import keras_internals
from mlhf.checks.structures import kind
from mlhf.models import keras_call, keras_models

Pair = tuple[int, int]

_KNOWN: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def population_statistics(
    model: Any,
    batches: Iterable[Any],
    parameters: Any = None,
    model_state: Any = None,
    *,
    examples: int | None = None,
) -> Any:
    """Returns a model state whose moving statistics are computed anew, at the given weights.

    Moving statistics lag behind: after a hundred steps with momentum 0.99 they are still largely
    their initial values, and after long steps they belong to weights that are gone, so a network in
    inference mode looks far worse than it is. Compute them anew before each evaluation. Every
    normalisation gets the mean and the variance of its inputs over the batches, with the layers
    before it as in training: normalising by the batch's own statistics, with dropout on.

    Args:
      model: A built `keras.Model`. Layers with the attributes `momentum`, `moving_mean` and
        `moving_variance` are normalisations; other layers, and frozen ones, keep their state.
      batches: Batches as `fit` takes them: inputs, or tuples that begin with inputs.
      parameters: The weights, as from `mlhf.get_parameters`; None for the model's own.
      model_state: The state, as from `mlhf.get_model_state`; None for the model's own.
      examples: The number of examples after which to stop; None for all batches.

    Returns:
      The new state, in which only normalisations differ; None for a model without a state. The
      model itself is not changed (`mlhf.set_model_state` writes a state into it).

    Raises:
      ValueError: If there are no batches, or the parameters or the state are not the model's.
      TypeError: If the model is not a Keras model, or a single batch was given instead of several.
    """
    if not keras_models.is_model(model):
        raise TypeError(
            "Expected a Keras model, whose layers say which state is a moving statistic, got "
            f"{model!r}; of a function, average the statistics that its own state has with a "
            "momentum of 0."
        )
    single = isinstance(batches, tuple) and all(hasattr(part, "shape") for part in batches)
    if hasattr(batches, "shape") or isinstance(batches, dict) or (single and batches):
        raise TypeError(
            f"Expected batches, as a list or a data set has them, got {kind(batches)}, which would "
            "be taken apart: put one batch into a list, [inputs] or [(inputs, targets)]."
        )
    if parameters is None:
        parameters = keras_models.get_parameters(model)
    paths = [variable.path for variable in model.trainable_variables]
    if set(parameters) != set(paths):
        raise ValueError(f"Expected parameters for {sorted(paths)}, got {sorted(parameters)}.")
    own = keras_models.get_model_state(model)
    if model_state is None:
        model_state = own
    if set(model_state or {}) != set(own or {}):
        raise ValueError(
            f"Expected a state of {sorted(own or {})}, got one of {sorted(model_state or {})}."
        )
    if not own:
        return None
    names = sorted(model_state)
    values = [parameters[path] for path in paths]
    state = [model_state[name] for name in names]
    inputs = _inputs(batches, examples)
    return dict(zip(names, _statistics_of(model)(values, state, inputs), strict=True))


class PopulationStatistics:
    """Computes the moving statistics of a model anew (Wu and Johnson 2021, arXiv 2105.07576).

    `population_statistics` uses it; traced once, it measures one model many times.
    """

    def __init__(self, model: Any) -> None:
        """Finds the layers with `momentum`, `moving_mean` and `moving_variance`.

        Args:
          model: A built Keras model.
        """
        self._model = weakref.ref(model)
        places = {id(v): i for i, v in enumerate(model.non_trainable_variables)}
        layers = [
            layer
            for layer in keras_internals.layers_of(model)
            if all(hasattr(layer, name) for name in ("momentum", "moving_mean", "moving_variance"))
            and id(layer.moving_mean) in places
        ]
        self._layers = layers
        self._pairs: list[Pair] = [
            (places[id(layer.moving_mean)], places[id(layer.moving_variance)]) for layer in layers
        ]
        self._of_batch: Callable[..., Any] = tf.function(
            self._trace, autograph=False, reduce_retracing=True
        )

    def __bool__(self) -> bool:
        """Returns whether the model has any moving statistics."""
        return bool(self._pairs)

    def __call__(
        self, values: Sequence[tf.Tensor], state: Sequence[tf.Tensor], batches: Iterable[Any]
    ) -> list[tf.Tensor]:
        """Returns the state with the statistics of the batches instead of the moving ones.

        The layers before a normalisation normalise a batch by its own statistics, as in training.

        Args:
          values: The values of the trainable variables, in their order.
          state: The values of the non-trainable variables, in their order.
          batches: The inputs of at least one batch; batches are weighted by their sizes.

        Returns:
          A new list, with other variables, and those of normalisations that do not move when the
          model trains, unchanged.

        Raises:
          ValueError: If there are no batches.
        """
        sizes: list[tf.Tensor] = []
        seen: list[list[Any]] = [[] for _ in self._pairs]
        for inputs in batches if self._pairs else ():
            sizes.append(tf.cast(tf.shape(tf.nest.flatten(inputs)[0])[0], tf.float64))
            of_layers = self._of_batch(list(values), list(state), inputs)
            for of_batches, of_batch in zip(seen, of_layers, strict=True):
                of_batches.append(of_batch)
        if self._pairs and not sizes:
            raise ValueError("Expected batches to take statistics of, got none.")
        taken = list(state)
        for (mean, variance), of_batches in zip(self._pairs, seen, strict=True):
            if any(part is None or not len(part[0]) for part in of_batches):
                continue
            means, variances = (
                tf.concat([tf.cast(part[k], tf.float64) for part in of_batches], 0) for k in (0, 1)
            )
            # A layer that is called several times has as many statistics of each batch.
            calls = len(of_batches[0][0])
            weights = tf.repeat(tf.stack(sizes) / tf.add_n(sizes) / calls, calls)
            whole = tf.tensordot(weights, means, 1)
            spread = tf.tensordot(weights, variances + tf.square(means - whole), 1)
            taken[mean] = tf.cast(whole, state[mean].dtype)
            taken[variance] = tf.cast(spread, state[variance].dtype)
        return taken

    def _trace(
        self, values: list[tf.Tensor], state: list[tf.Tensor], inputs: Any
    ) -> list[tuple[tf.Tensor, ...]]:
        """Returns a batch's means and variances [calls, ...] for every layer."""
        # Without momentum, a call writes the batch's own statistics into the moving ones.
        momenta = [layer.momentum for layer in self._layers]
        written: dict[int, list[tf.Tensor]] = {}
        try:
            for layer in self._layers:
                layer.momentum = 0.0
            keras_call.call(self._model(), values, state, inputs, training=True, written=written)
        finally:
            for layer, momentum in zip(self._layers, momenta, strict=True):
                layer.momentum = momentum
        return [
            tuple(tf.stack(written[id(v)]) if id(v) in written else tf.zeros([0]) for v in pair)
            for pair in ((layer.moving_mean, layer.moving_variance) for layer in self._layers)
        ]


def _statistics_of(model: Any) -> PopulationStatistics:
    """Returns those of a model, made again only when layers are frozen or unfrozen."""
    trainable = [layer.trainable for layer in keras_internals.layers_of(model)]
    made_for, statistics = _KNOWN.get(model, (None, None))
    if made_for != trainable:
        statistics = PopulationStatistics(model)
        _KNOWN[model] = trainable, statistics
    return statistics


def _inputs(batches: Iterable[Any], examples: int | None) -> Iterator[Any]:
    seen = 0
    for batch in batches:
        if examples is not None and seen >= examples:
            return
        inputs = batch[0] if isinstance(batch, tuple) else batch
        inputs = tf.nest.map_structure(tf.convert_to_tensor, inputs)
        yield inputs
        seen += int(tf.nest.flatten(inputs)[0].shape[0])
