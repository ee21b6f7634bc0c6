"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024)."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from mlhf.checks.arguments import check_choice, check_count, check_number
from mlhf.optimizers.gradient_methods.method import (
    GradientMethod,
    Leaves,
    Point,
    adam_direction,
    average,
    zeros_like,
)
from mlhf.optimizers.orthogonalization import matrices
from mlhf.optimizers.settings import Fixed

Matrices = tuple[tuple[tf.Tensor, ...], ...]


class SOAPState(NamedTuple):
    """The state of SOAP; structures are those of the parameters."""

    step: tf.Tensor  # int32, the number of steps taken
    first_moments: Any  # averages of the gradients, in the eigenbasis
    second_moments: Any  # averages of their squares, in the eigenbasis
    factors: Matrices  # for each parameter and axis with one, the average of G Gᵀ over that axis
    bases: Matrices  # their eigenvectors, as columns


class SOAP(GradientMethod):
    """Adam on the gradient rotated into the eigenvectors of its second moments (arXiv 2409.11321).

    For a matrix, with averages L of G Gᵀ and R of Gᵀ G and their eigenvectors Q_L and Q_R, Adam's
    rule gets Q_Lᵀ G Q_R and its result is rotated back. Eigenvectors are renewed every few steps by
    one power iteration and a QR decomposition; Adam's average of squares stays in the old basis,
    sorted. The first step only sets L and R and moves nothing, as in the authors' code.

    Parameters with one axis, and axes longer than `largest_axis`, keep their own basis.
    """

    beta_1, beta_2, epsilon = Fixed(), Fixed(), Fixed()
    basis_every, largest_axis, as_matrices = Fixed(), Fixed(), Fixed()

    def __init__(
        self,
        learning_rate: Any = 3e-3,
        *,
        weight_decay: Any = 0.0,
        basis_every: int = 10,
        largest_axis: int = 2048,
        as_matrices: bool = False,
        beta_1: float = 0.95,
        beta_2: float = 0.95,
        epsilon: float = 1e-8,
        jit_compile: bool = False,
    ) -> None:
        """Sets an optimizer up.

        Args:
          learning_rate: lr, positive: a number, a tensor, a variable, or a function of the steps
            taken, such as an `mlhf.Schedule`.
          weight_decay: The decoupled weight decay.
          basis_every: Steps between two renewals of the eigenvectors.
          largest_axis: The longest axis that gets eigenvectors; the authors' is 10,000, for which
            a decomposition takes minutes on a CPU.
          as_matrices: Whether a kernel is taken as one matrix, from inputs to outputs, as Muon
            takes it; by default each of its axes has a factor of its own.
          beta_1: The share of the average of gradients that a step keeps.
          beta_2: The share of the averages of squares, L and R that a step keeps.
          epsilon: Adam's ε.
          jit_compile: Whether a step is compiled with XLA.

        Raises:
          ValueError: If a value makes no sense; the message says what was expected.
        """
        super().__init__(learning_rate, weight_decay, jit_compile)
        self.basis_every = check_count("basis_every", basis_every)
        self.largest_axis = check_count("largest_axis", largest_axis)
        self.as_matrices = check_choice("as_matrices", as_matrices, (True, False))
        self.beta_1 = check_number("beta_1", beta_1, at_least=0, below=1)
        self.beta_2 = check_number("beta_2", beta_2, at_least=0, below=1)
        self.epsilon = check_number("epsilon", epsilon, at_least=0)

    def _initial(self, parameters: Any) -> SOAPState:
        leaves = tf.nest.flatten(parameters)
        factors = tuple(
            tuple(tf.zeros([shape[axis]] * 2, leaf.dtype) for axis in self._axes(shape))
            for leaf, shape in zip(leaves, self._shapes(parameters), strict=True)
        )
        bases = tf.nest.map_structure(lambda f: tf.eye(f.shape[0], dtype=f.dtype), factors)
        first, second = (tf.nest.pack_sequence_as(parameters, zeros_like(leaves)) for _ in range(2))
        return SOAPState(tf.constant(0), first, second, factors, bases)

    def _rule(
        self, point: Point, state: SOAPState, numbers: dict[str, tf.Tensor]
    ) -> tuple[Leaves, SOAPState]:
        return tf.cond(
            state.step == 0,
            lambda: self._first_step(point, state),
            lambda: self._usual_step(point, state, numbers),
        )

    def _first_step(self, point: Point, state: SOAPState) -> tuple[Leaves, SOAPState]:
        factors = self._renewed_factors(point, state)
        bases = tf.nest.map_structure(
            lambda factor: tf.reverse(tf.linalg.eigh(factor)[1], [1]), factors
        )
        after = state._replace(step=state.step + 1, factors=factors, bases=bases)
        return list(point.parameters), after

    def _usual_step(
        self, point: Point, state: SOAPState, numbers: dict[str, tf.Tensor]
    ) -> tuple[Leaves, SOAPState]:
        rate, decay = numbers["learning_rate"], numbers["weight_decay"]
        shapes = self._shapes(point.structure)
        first, second, moved = [], [], []
        moments = tf.nest.flatten(state.first_moments), tf.nest.flatten(state.second_moments)
        parts = point.parameters, point.gradient, *moments, shapes, state.bases
        for w, g, m, v, shape, bases in zip(*parts, strict=True):
            rotated = tf.reshape(self._rotated(tf.reshape(g, shape), bases), w.shape)
            m = average(m, rotated, self.beta_1)
            v = average(v, tf.square(rotated), self.beta_2)
            # The first step was none of Adam's.
            u = adam_direction(m, v, state.step, self.beta_1, self.beta_2, self.epsilon)
            w -= rate * tf.reshape(self._rotated(tf.reshape(u, shape), bases, True), w.shape)
            first.append(m)
            second.append(v)
            moved.append(w - rate * decay * w)
        after = SOAPState(
            state.step + 1,
            point.pack(first),
            point.pack(second),
            self._renewed_factors(point, state),
            state.bases,
        )
        due = state.step % self.basis_every == 0
        return moved, tf.cond(due, lambda: self._renewed_bases(after, shapes), lambda: after)

    def _renewed_factors(self, point: Point, state: SOAPState) -> Matrices:
        """Returns the averages L, R, ... with the gradient of the step."""
        renewed = []
        for g, shape, factors in zip(
            point.gradient, self._shapes(point.structure), state.factors, strict=True
        ):
            g, one = tf.reshape(g, shape), []
            for axis, factor in zip(self._axes(shape), factors, strict=True):
                others = [number for number in range(len(shape)) if number != axis]
                one.append(average(factor, tf.tensordot(g, g, [others, others]), self.beta_2))
            renewed.append(tuple(one))
        return tuple(renewed)

    def _renewed_bases(self, state: SOAPState, shapes: list[tuple[int, ...]]) -> SOAPState:
        """Returns the state with new eigenvectors and what is kept in their basis."""
        first, second, renewed = [], [], []
        moments = tf.nest.flatten(state.first_moments), tf.nest.flatten(state.second_moments)
        for m, v, shape, factors, bases in zip(
            *moments, shapes, state.factors, state.bases, strict=True
        ):
            full, v_there, one = m.shape, tf.reshape(v, shape), []
            m_there = self._rotated(tf.reshape(m, shape), bases, True)
            for axis, factor, basis in zip(self._axes(shape), factors, bases, strict=True):
                eigenvalues = tf.reduce_sum(basis * tf.matmul(factor, basis), 0)
                order = tf.argsort(eigenvalues, direction="DESCENDING")
                v_there = tf.gather(v_there, order, axis=axis)
                basis = tf.gather(basis, order, axis=1)
                one.append(tf.linalg.qr(tf.matmul(factor, basis))[0])
            renewed.append(tuple(one))
            first.append(tf.reshape(self._rotated(m_there, tuple(one)), full))
            second.append(tf.reshape(v_there, full))
        return state._replace(
            first_moments=tf.nest.pack_sequence_as(state.first_moments, first),
            second_moments=tf.nest.pack_sequence_as(state.second_moments, second),
            bases=tuple(renewed),
        )

    def _rotated(
        self, tensor: tf.Tensor, bases: tuple[tf.Tensor, ...], back: bool = False
    ) -> tf.Tensor:
        """Returns a tensor in the basis of eigenvectors, or back in its own."""
        shape = tuple(tensor.shape)
        by_axis = dict(zip(self._axes(shape), bases, strict=True))
        if not by_axis:
            return tensor
        # Each axis in turn is the first, and goes to the end.
        for axis in range(len(shape)):
            if axis in by_axis:
                tensor = tf.tensordot(tensor, by_axis[axis], [[0], [int(back)]])
            else:
                tensor = tf.transpose(tensor, [*range(1, len(shape)), 0])
        return tensor

    def _shapes(self, parameters: Any) -> list[tuple[int, ...]]:
        """Returns the shapes in which parameters are rotated."""
        shapes = [tuple(leaf.shape) for leaf in tf.nest.flatten(parameters)]
        if not self.as_matrices:
            return shapes
        forms = matrices(parameters)
        return [
            shape if form is None else (form.rows, form.columns)
            for shape, form in zip(shapes, forms, strict=True)
        ]

    def _axes(self, shape: tuple[int, ...]) -> list[int]:
        """Returns the axes that have eigenvectors."""
        if len(shape) < 2:
            return []
        return [axis for axis, size in enumerate(shape) if 1 < size <= self.largest_axis]
