"""An objective whose batch is divided among replicas; its means are those of all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from custom_op.flat_form import FlatForm
from mlhf.checks import asides, targets
from mlhf.distribute import random_seeds
from mlhf.distribute.replicas import Replicas
from mlhf.objective import LinearizedObjective, Objective, inner
from mlhf.objective.shares import Mean, OfBatch, Share

Structure = Any


class ParallelObjective(Objective):
    """An objective on this process's part of a batch, as its replicas and other processes see it.

    Value, gradient and products are those of the whole batch: each replica computes those of its
    share, and a sum over replicas, weighted by how many terms each has, makes the mean. What an
    optimizer does with them is done once in each process, on the same numbers. The regularizer is
    part of that.
    """

    def __init__(self, objective: Objective, replicas: Replicas) -> None:
        """Divides a batch.

        Args:
          objective: The objective on this process's part of the batch, no sum.
          replicas: The replicas.
        """
        static = (*objective.static[:4], replicas, 1.0, True, ParallelObjective)
        self._restore(static, objective.tensors)

    @property
    def static(self) -> tuple[Any, ...]:
        """What a compiled step depends on besides shapes; the class of the objective is last."""
        own = self._replicas, self._fraction, self._wants_gradient
        return self.network, self.loss, self.regularizer, self.unconnected, *own, type(self)

    def _restore(self, static: tuple[Any, ...], tensors: tuple[Any, ...]) -> None:
        self.network, self.loss, self.regularizer, self.unconnected, *own, _ = static
        self._replicas, self._fraction, self._wants_gradient = own
        self._set_tensors(tensors)

    def _with(self, fraction: float, wants_gradient: bool) -> Objective:
        static = (*self.static[:4], self._replicas, fraction, wants_gradient, ParallelObjective)
        return self.__tf_unflatten__(static, self.tensors)

    @property
    def first_share(self) -> Objective:
        """The part of the batch that this process's first replica computes."""
        return self._share(self._replicas.own[0])

    @property
    def for_products(self) -> Objective:
        """The objective to linearize where the gradient is not asked for, nor sent."""
        return self._with(self._fraction, False)

    def first_examples(self, share: float) -> Objective:
        """Returns the objective on the first examples of each replica's share."""
        shares = [self._share(number) for number in self._replicas.own]
        if all(one.first_examples(share) is one for one in shares):
            return self
        return self._with(share, False)

    def batch_size(self) -> int:
        """Returns the number of examples of all processes, whose parts are as large as this one.

        Raises:
          ValueError: If the size of a part is not static.
        """
        size = self.targets.shape[0]
        if size is None:
            raise ValueError(
                "Expected a batch of static size, of which replicas are to take a share, got one "
                "of unknown size: batch with drop_remainder=True, or give the tf.function's "
                "signature a number in the place of None."
            )
        return size * self._replicas.processes

    def outputs(self, parameters: Structure) -> tuple[tf.Tensor, Structure]:
        """Refuses, since no process has all outputs.

        Raises:
          TypeError: Always.
        """
        raise TypeError(
            "Expected an optimizer that takes losses, gradients and curvature products of a "
            "divided batch, got one that asks for the network's outputs, which no process has all "
            "of: train with mlhf.MartensHessianFree or mlhf.HessianFree, or without "
            "mlhf.distribute."
        )

    def data_loss(self, parameters: Structure) -> tf.Tensor:
        """Returns the mean loss without the regularizer, in the parameters' dtype."""

        def of_share(share: Share) -> tuple[list[Mean], Structure]:
            outputs = share.objective.outputs(parameters)[0]
            evaluation = share.objective.evaluation(outputs)
            return [Mean(evaluation.count, [evaluation.value()])], ()

        ((value,),) = self.over_shares(of_share).means
        return tf.cast(value, tf.nest.flatten(parameters)[0].dtype)

    def linearize(
        self,
        parameters: Structure,
        product_dtype: str | None = None,
        unconnected: str | None = None,
    ) -> LinearizedObjective:
        """Runs the network forward once on every replica, which keeps what its products need."""
        unconnected = self.unconnected if unconnected is None else unconnected
        return _LinearizedOnReplicas(self, parameters, product_dtype, unconnected)

    def over_shares(self, function: Callable[[Share], tuple[list[Mean], Structure]]) -> OfBatch:
        """Returns means over the batch that a function computes of each share of it.

        Everything is sent in one vector. Of the network's state, numbers such as moving statistics
        are averaged over the examples; the rest is that of this process's first replica.

        Args:
          function: A function of a share that returns means over it, and the network's state after
            it (`()` if it has none).
        """
        seen: dict[int, tuple[list[Mean], Structure]] = {}
        beside: dict[int, list[Structure]] = {}

        def on_replica(number: int) -> tf.Tensor:
            share = self._share(number)
            # Only the first replica stands for the network where targets are checked.
            quiet = contextlib.nullcontext() if number == self._replicas.own[0] else targets.noted()
            with quiet, asides.noted() as beside[number]:
                means, model_state = function(Share(share, number, self._replicas.count))
            seen[number] = means, random_seeds.of_all(model_state, number)
            examples = tf.shape(share.targets)[0]
            averaged = Mean(examples, _floating(model_state))
            return _packed([*means, averaged])

        total = self._replicas.sum(on_replica)
        for parts in zip(*[beside[number] for number in self._replicas.own], strict=True):
            asides.note(tf.nest.map_structure(lambda *of_shares: tf.concat(of_shares, 0), *parts))
        means, model_state = seen[self._replicas.own[0]]
        like = [*means, Mean(tf.constant(0), _floating(model_state))]
        *of_batch, (_, averages) = _unpacked(total, like)
        return OfBatch(
            [tensors for _, tensors in of_batch],
            [weight for weight, _ in of_batch],
            _with_floating(model_state, averages),
        )

    def on_replicas(self, function: Callable[[int], tf.Tensor]) -> tf.Tensor:
        """Returns the sum over replicas of what a function of their numbers returns."""
        return self._replicas.sum(function)

    def _share(self, number: int) -> Objective:
        """Returns the part of the batch that one of this process's replicas computes."""
        own = self._replicas.own
        place, parts = own.index(number), len(own)
        size = self.targets.shape[0]
        if size is not None and size < parts:
            raise ValueError(
                f"Expected at least one example for each of the {parts} replicas of this process, "
                f"got a batch of {size}: batch with drop_remainder=True, or in larger batches."
            )
        size = tf.shape(self.targets)[0] if size is None else size
        begin, end = place * size // parts, (place + 1) * size // parts

        def cut(tensor: tf.Tensor) -> tf.Tensor:
            return tensor[begin:end]

        inputs = tf.nest.map_structure(cut, self.inputs)
        counted = tf.nest.map_structure(cut, self.tensors[-1])
        state = random_seeds.of_replica(self.model_state, number)
        static = self.network, self.loss, None, self.unconnected, Objective
        share = Objective.__tf_unflatten__(static, (inputs, cut(self.targets), state, counted))
        return share.first_examples(self._fraction)


class _LinearizedOnReplicas(LinearizedObjective):
    """A divided objective at a point."""

    def __init__(
        self,
        objective: ParallelObjective,
        parameters: Structure,
        product_dtype: str | None,
        unconnected: str,
    ) -> None:
        self._regularizer, self._objective = objective.regularizer, objective
        self.parameters, self._form = parameters, FlatForm(parameters, "parameters")
        # What each replica has kept of its share.
        self._shares: dict[int, LinearizedObjective] = {}
        with_gradient = objective._wants_gradient

        def of_share(share: Share) -> tuple[list[Mean], Structure]:
            one = share.objective.linearize(parameters, product_dtype, unconnected)
            self._shares[share.number] = one
            tensors = [one.data_loss]
            if with_gradient:
                tensors.append(self._form.flatten(one.gradient()))
            return [Mean(one.count, tensors)], one.model_state

        ((data_loss, *gradient),), (self._count,), self.model_state = objective.over_shares(
            of_share
        )
        self._flat_gradient = gradient[0] if gradient else None
        self._note(objective, data_loss)

    @property
    def weighted_operators(self) -> list[tuple[Any, Any]]:
        """Refuses, since no process has the Jacobian of the whole batch.

        Raises:
          TypeError: Always.
        """
        raise TypeError(
            "Expected an optimizer that takes curvature products of a divided batch, got one that "
            "asks for its Jacobian, which no process has: train with mlhf.MartensHessianFree or "
            "mlhf.HessianFree, or without mlhf.distribute."
        )

    @property
    def connected(self) -> list[bool]:
        """Whether the outputs depend on each parameter, in the order of `tf.nest.flatten`."""
        return next(iter(self._shares.values())).connected

    @property
    def count(self) -> tf.Tensor:
        """The number of terms in the mean, over all replicas."""
        return self._count

    def gradient(self) -> Structure:
        """Returns the gradient of the value, in the structure of the parameters."""
        if self._flat_gradient is None:
            self._flat_gradient = self._mean(lambda one: self._form.flatten(one.gradient()))
        gradient = self._form.unflatten(self._flat_gradient)
        if self._regularizer is None:
            return gradient
        more = self._regularizer.gradient(self.parameters)
        return tf.nest.map_structure(tf.add, gradient, more)

    def curvature_product(self, vector: Structure) -> Structure:
        """Returns (Jᵀ H J + the regularizer's Hessian) v, in the structure of the parameters."""
        flat = self._form.flatten(vector)

        def of_share(one: LinearizedObjective) -> tf.Tensor:
            return self._form.flatten(one.curvature_product(self._form.unflatten(flat)))

        product = self._form.unflatten(self._mean(of_share))
        if self._regularizer is None:
            return product
        more = self._regularizer.hessian_product(self.parameters, vector)
        return tf.nest.map_structure(tf.add, product, more)

    def curvature_along(self, vector: Structure) -> tf.Tensor:
        """Returns ⟨v, (Jᵀ H J + the regularizer's Hessian) v⟩, without a backward pass."""
        curvature = self._mean(lambda one: one.curvature_along(vector))
        if self._regularizer is None:
            return curvature
        product = self._regularizer.hessian_product(self.parameters, vector)
        return curvature + inner(vector, product)

    def _mean(self, function: Callable[[LinearizedObjective], tf.Tensor]) -> tf.Tensor:
        """Returns the mean over the batch of a tensor that is a mean over each share."""

        def on_replica(number: int) -> tf.Tensor:
            one = self._shares[number]
            tensor = function(one)
            return tensor * tf.cast(tf.math.divide_no_nan(one.count, self._count), tensor.dtype)

        return self._objective.on_replicas(on_replica)


def _packed(means: list[Mean]) -> tf.Tensor:
    """Returns weights and weighted tensors as one vector."""
    dtype = means[0].tensors[0].dtype
    pieces = []
    for weight, tensors in means:
        weight = tf.cast(weight, dtype)
        pieces.append(tf.reshape(weight, [1]))
        pieces += [weight * tf.reshape(tf.cast(tensor, dtype), [-1]) for tensor in tensors]
    return tf.concat(pieces, 0)


def _unpacked(total: tf.Tensor, like: list[Mean]) -> list[tuple[tf.Tensor, list[tf.Tensor]]]:
    """Returns weights and means out of the sum of vectors that `_packed` made."""
    sizes = [n for mean in like for n in (1, *(t.shape.num_elements() for t in mean.tensors))]
    pieces = iter(tf.split(total, sizes))
    found = []
    for mean in like:
        weight = tf.reshape(next(pieces), [])
        tensors = [
            tf.cast(tf.reshape(tf.math.divide_no_nan(next(pieces), weight), t.shape), t.dtype)
            for t in mean.tensors
        ]
        found.append((weight, tensors))
    return found


def _floating(structure: Structure) -> list[tf.Tensor]:
    return [leaf for leaf in tf.nest.flatten(structure) if leaf.dtype.is_floating]


def _with_floating(structure: Structure, values: list[tf.Tensor]) -> Structure:
    """Returns a structure with other values in the place of its floating leaves."""
    new = iter(values)
    leaves = [next(new) if t.dtype.is_floating else t for t in tf.nest.flatten(structure)]
    return tf.nest.pack_sequence_as(structure, leaves)
