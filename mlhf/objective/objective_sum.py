"""A weighted sum of objectives: residuals inside and on a boundary, an equation and data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from custom_op import structures
from mlhf.checks import networks, term_losses
from mlhf.checks.arguments import check_number
from mlhf.checks.structures import kind
from mlhf.objective.objective import LinearizedObjective, Objective, Term
from mlhf.objective.regularizers import Regularizer
from mlhf.objective.shares import OfBatch, Share

Structure = Any


class _Parts(NamedTuple):
    """The static part of a sum, in the place of an objective's network."""

    names: tuple[str, ...]
    statics: tuple[Any, ...]  # of the objectives
    weights: tuple[float | None, ...]  # None for a tensor


class ObjectiveSum(Objective):
    """Σ wₖ ℓₖ over objectives of the same parameters, each with its own network, loss and batch.

    For example the residuals of an equation inside a domain and those of its boundary values::

        objective = mlhf.ObjectiveSum(
            {
                "inside": mlhf.Objective(residual, "squared_error", points, zeros),
                "boundary": mlhf.Objective(network, "squared_error", edge, values),
            },
            weights={"boundary": 100.0},
        )

    Optimizers step on it as on any other objective: gradient and curvature are the weighted sums
    of the terms'. A step's metrics report each term's loss, not weighted, as `loss_inside` and
    `loss_boundary`. `mlhf.KFAC`, whose factors belong to one network on one batch, refuses it.

    Inputs, targets and the model state are dictionaries with the names of the terms (the state is
    `()` if no network has one).

    Attributes:
      term_weights: The weights by name.
    """

    def __init__(
        self,
        objectives: Mapping[str, Objective],
        weights: Mapping[str, Any] | None = None,
        regularizer: Regularizer | None = None,
    ) -> None:
        """Describes a sum.

        Args:
          objectives: The terms by name, at least one; none is a sum, or has a regularizer.
          weights: The weights of terms, at least 0 and 1 where none is given. A number is part of
            what is compiled; a scalar tensor or variable may change from step to step.
          regularizer: The regularizer of the sum, as for `mlhf.Objective`; it is not weighted.

        Raises:
          TypeError: If something else is given than objectives.
          ValueError: If there is no term, a term has a regularizer, or a weight is negative or of
            no term.
        """
        _check_objectives(objectives)
        weights = {} if weights is None else weights
        unknown = sorted(set(weights) - set(objectives))
        if unknown:
            raise ValueError(
                f"Expected weights of the terms {sorted(objectives)}, got some of {unknown} too."
            )
        networks.check_regularizer(regularizer)
        # Sorted, as TensorFlow flattens dictionaries.
        ordered = {name: objectives[name] for name in sorted(objectives)}
        weights = {name: _weight(name, weights.get(name, 1.0)) for name in ordered}
        self.unconnected = "error"
        self._set(ordered, weights, regularizer)

    def _set(
        self,
        objectives: dict[str, Objective],
        weights: dict[str, Any],
        regularizer: Regularizer | None,
    ) -> None:
        self._objectives, self.term_weights, self.regularizer = objectives, weights, regularizer
        self.inputs = {name: objective.inputs for name, objective in objectives.items()}
        self.targets = {name: objective.targets for name, objective in objectives.items()}
        self.model_state = _states({name: o.model_state for name, o in objectives.items()})

    @property
    def static(self) -> tuple[Any, ...]:
        """What a compiled step depends on besides shapes; the class of the objective is last."""
        parts = _Parts(
            tuple(self._objectives),
            tuple(objective.static for objective in self._objectives.values()),
            tuple(None if tf.is_tensor(w) else w for w in self.term_weights.values()),
        )
        losses = tuple(objective.loss for objective in self._objectives.values())
        return parts, losses, self.regularizer, self.unconnected, type(self)

    @property
    def tensors(self) -> tuple[Any, ...]:
        """What changes from batch to batch: inputs, targets, model state, weights."""
        changing = {name: w for name, w in self.term_weights.items() if tf.is_tensor(w)}
        of_examples = {name: objective.tensors[-1] for name, objective in self._objectives.items()}
        return self.inputs, self.targets, self.model_state, (changing, of_examples)

    def _restore(self, static: tuple[Any, ...], tensors: tuple[Any, ...]) -> None:
        parts, _, regularizer, self.unconnected, _ = static
        inputs, targets, states, weights = tensors
        changing, of_examples = weights if weights else ({}, {})
        objectives = {
            name: Objective.__tf_unflatten__(
                one,
                (
                    inputs[name],
                    targets[name],
                    states[name] if states else (),
                    of_examples.get(name, ()),
                ),
            )
            for name, one in zip(parts.names, parts.statics, strict=True)
        }
        term_weights = {
            name: changing[name] if weight is None else weight
            for name, weight in zip(parts.names, parts.weights, strict=True)
        }
        self._set(objectives, term_weights, regularizer)

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms, in the order of their names."""
        return tuple(
            Term(name, self.term_weights[name], objective)
            for name, objective in self._objectives.items()
        )

    def on(self, inputs: Any, targets: Any, model_state: Structure, weights: Any = ()) -> Objective:
        """Returns the objective on other batches of tensors, in another model state.

        Args:
          inputs: The inputs by name.
          targets: The targets by name.
          model_state: The model states by name, or `()`.
          weights: The weights of examples by name, or `()`.

        Returns:
          The sum, with these terms' weights.
        """
        changing, _ = self.tensors[-1]
        rest = (changing, weights if weights else {})
        return self.__tf_unflatten__(self.static, (inputs, targets, model_state, rest))

    def outputs(self, parameters: Structure) -> tuple[Any, Structure]:
        """Returns the networks' outputs and the new model states, both by name."""
        outputs, states = {}, {}
        for name, objective in self._objectives.items():
            outputs[name], states[name] = objective.outputs(parameters)
        return outputs, _states(states)

    def data_loss(self, parameters: Structure) -> tf.Tensor:
        """Returns Σ wₖ ℓₖ without the regularizer, in the parameters' dtype."""
        losses = [objective.data_loss(parameters) for objective in self._objectives.values()]
        return tf.add_n(_weighted(self.term_weights, losses))

    def evaluation(self, outputs: Any) -> Any:
        """Refuses, since each term has a loss of its own.

        Raises:
          TypeError: Always.
        """
        raise TypeError(
            "Expected an objective of one term, got a sum: evaluate each of its terms' objectives, "
            "[term.objective.evaluation(outputs) for term in objective.terms]."
        )

    def first_examples(self, share: Any) -> Objective:
        """Returns the sum on the first examples of each term's batch."""
        if not tf.is_tensor(share) and share == 1:
            return self
        return self.map_terms(lambda term: term.first_examples(share))

    @property
    def for_products(self) -> Objective:
        """The sum to linearize where the gradient is not asked for."""
        return self.map_terms(lambda term: term.for_products)

    def map_terms(self, function: Callable[[Objective], Objective]) -> Objective:
        """Returns the sum with a function applied to each term's objective."""
        mapped = ObjectiveSum.__new__(ObjectiveSum)
        mapped.unconnected = self.unconnected
        objectives = {name: function(one) for name, one in self._objectives.items()}
        mapped._set(objectives, self.term_weights, self.regularizer)
        return mapped

    def over_shares(self, function: Callable[[Share], Any]) -> OfBatch:
        """Refuses, since each term has a batch of its own.

        Raises:
          TypeError: Always.
        """
        raise TypeError(
            "Expected an objective of one term, got a sum, whose terms have shares of their own: "
            "take each of its terms' objectives, for term in objective.terms."
        )

    @property
    def is_weighted(self) -> bool:
        """Whether examples of a term have weights or a mask."""
        return any(objective.is_weighted for objective in self._objectives.values())

    def batch_size(self) -> int | tf.Tensor:
        """Returns the number of examples of all terms."""
        return sum(objective.batch_size() for objective in self._objectives.values())

    def linearize(
        self,
        parameters: Structure,
        product_dtype: str | None = None,
        unconnected: str | None = None,
    ) -> LinearizedObjective:
        """Runs the networks forward once and keeps what gradients and products need.

        Args:
          parameters: The point, a structure of floating tensors.
          product_dtype: As for `Objective.linearize`.
          unconnected: As for `Objective.linearize`, of a parameter that no term depends on.

        Returns:
          The sum, its gradient and its Gauss-Newton products there.

        Raises:
          ValueError: If no term depends on a parameter, or targets do not fit.
        """
        unconnected = self.unconnected if unconnected is None else unconnected
        return _LinearizedSum(self, parameters, product_dtype, unconnected)


class _LinearizedSum(LinearizedObjective):
    """A sum at a point."""

    def __init__(
        self,
        objective: ObjectiveSum,
        parameters: Structure,
        product_dtype: str | None,
        unconnected: str,
    ) -> None:
        self._regularizer = objective.regularizer
        self.parameters = parameters
        # A term may depend on some of the parameters only.
        terms = {
            name: one.linearize(parameters, product_dtype, "zero")
            for name, one in objective._objectives.items()
        }
        if unconnected == "error":
            _check_connected(parameters, [term.connected for term in terms.values()])
        losses = [term.data_loss for term in terms.values()]
        self._operator = _SumOfOperators(objective.term_weights, list(terms.values()))
        self.model_state = _states({name: term.model_state for name, term in terms.items()})
        self._note(objective, tf.add_n(_weighted(objective.term_weights, losses)))
        term_losses.note({f"loss_{name}": loss for name, loss in zip(terms, losses, strict=True)})

    @property
    def weighted_operators(self) -> list[tuple[Any, Any]]:
        """The weights and the Gauss-Newton operators of the terms."""
        weights, terms = self._operator._weights.values(), self._operator._terms
        return [(weight, term._operator) for weight, term in zip(weights, terms, strict=True)]


class _SumOfOperators:
    """Σ wₖ Gₖ, and its gradient."""

    def __init__(self, weights: Mapping[str, Any], terms: list[LinearizedObjective]) -> None:
        self._weights, self._terms = weights, terms
        parts = [term.connected for term in terms]
        self.connected = [any(those) for those in zip(*parts, strict=True)]

    def gradient(self) -> Structure:
        """Returns Σ wₖ gₖ."""
        return self._sum([term.gradient() for term in self._terms])

    def matvec(self, vector: Structure) -> Structure:
        """Returns Σ wₖ Gₖ v."""
        return self._sum([term.curvature_product(vector) for term in self._terms])

    def quadratic_form(self, vector: Structure) -> tf.Tensor:
        """Returns Σ wₖ ⟨v, Gₖ v⟩."""
        return self._sum([term.curvature_along(vector) for term in self._terms])

    def _sum(self, parts: list[Structure]) -> Structure:
        return tf.nest.map_structure(
            lambda *leaves: tf.add_n(_weighted(self._weights, list(leaves))), *parts
        )


def _weighted(weights: Mapping[str, Any], values: list[tf.Tensor]) -> list[tf.Tensor]:
    return [
        # A number stays one: as a tensor it would have been float32 on the way.
        (tf.cast(weight, value.dtype) if tf.is_tensor(weight) else weight) * value
        for weight, value in zip(weights.values(), values, strict=True)
    ]


def _states(states: Mapping[str, Any]) -> Any:
    """Returns states by name, and the empty structure if there are none."""
    return dict(states) if tf.nest.flatten(states) else ()


def _check_connected(parameters: Structure, terms: list[list[bool]]) -> None:
    loose = [
        name
        for name, *connected in zip(structures.leaf_names(parameters), *terms, strict=True)
        if not any(connected)
    ]
    if loose:
        raise ValueError(
            f"No term of the sum depends on {loose}. Does a network read a variable instead of the "
            "parameters that it is given?"
        )


def _check_objectives(objectives: Any) -> None:
    if not isinstance(objectives, Mapping):
        raise TypeError(
            'Expected the terms of a sum by name, {"inside": mlhf.Objective(...), ...}, got '
            f"{kind(objectives)}."
        )
    if not objectives:
        raise ValueError("Expected at least one term of a sum, got none.")
    for name, objective in objectives.items():
        if not isinstance(name, str):
            raise TypeError(f"Expected names of terms, got {name!r}.")
        if not isinstance(objective, Objective) or isinstance(objective, ObjectiveSum):
            hint = ": put its terms into this one" if isinstance(objective, ObjectiveSum) else ""
            raise TypeError(
                f"Expected an mlhf.Objective as the term {name!r}, got {kind(objective)}{hint}."
            )
        if objective.regularizer is not None:
            raise ValueError(
                f"Expected the term {name!r} without a regularizer, got "
                f"{objective.regularizer!r}: give it to the sum, ObjectiveSum(regularizer=...)."
            )


def _weight(name: str, weight: Any) -> Any:
    if not tf.is_tensor(weight) and not isinstance(weight, tf.Variable):
        return float(check_number(f"the weight of {name!r}", weight, at_least=0))
    tensor = tf.convert_to_tensor(weight)
    if tensor.shape.rank != 0 or not tensor.dtype.is_floating:
        raise ValueError(
            f"Expected a floating scalar as the weight of {name!r}, got one of shape "
            f"{tensor.shape} and dtype {tensor.dtype.name}."
        )
    return tensor
