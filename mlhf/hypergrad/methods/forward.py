"""Forward-mode hypergradients (Franceschi et al. 2017, section 3.2).

With the H numbers of all hyperparameters as columns, Z_t = ∂s_t/∂λ goes along with training:

    Z_0 = Φ₀',  Z_t = A_t Z_{t-1} + B_t  at s_{t-1},        dλ = E_λ + Z_Tᵀ E_s

Each step is linearized once and pushes all columns; the memory does not grow with T.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

import custom_op
from mlhf.hypergrad import arguments, guards
from mlhf.hypergrad.binding import bind
from mlhf.hypergrad.dynamics.base import State
from mlhf.hypergrad.hyperparameters import Rows
from mlhf.hypergrad.methods import assembly
from mlhf.hypergrad.methods.unroll import run
from mlhf.hypergrad.result import Result
from mlhf.hypergrad.training import Outer, Training


@tf.autograph.experimental.do_not_convert
def forward(
    problem: Any,
    weights: Any,
    hyperparameters: Any,
    *,
    seed: int | tf.Tensor = 0,
    together: int = 16,
) -> Result:
    """Carries the derivative of the state along with training; exact, for few numbers.

    It costs about H trainings for the H numbers in the hyperparameters (a schedule of T has T), and
    memory for H states, whatever T.

    Args:
      problem: A `Problem`.
      weights: The weights that training begins with: a structure of tensors or a built Keras model;
        None if the problem or the hyperparameters make them.
      hyperparameters: A mapping, as `Problem` describes.
      seed: An int32, passed to losses and suppliers with a parameter of that name.
      together: The number of columns that are written out in the graph; a step loops over groups of
        as many.

    Returns:
      A `Result`; `info["jacobian_norm"]` has ‖∂w_t/∂λ‖ after each step, [T], by name.

    Raises:
      DivergedError: If training or the derivative is not finite.
      ValueError: If the arguments don't fit the problem.
    """
    training, weights, hyper = bind(problem, weights, hyperparameters)
    seed = arguments.as_seed(seed)
    loops = forward_loops(training, together)
    state, tangents = run(training, loops.begin, weights, hyper, seed)
    passed = run(
        training,
        loops.advance,
        state,
        tangents,
        hyper,
        seed,
        tf.constant(0),
        tf.constant(training.steps),
    )
    guards.check_training(passed.bad_step)
    outer = run(training, loops.outer, passed.state["weights"], hyper, seed)
    gradient = loops.hypergradient(passed.tangents, outer)
    guards.check_finite(gradient, "forward")
    return Result(
        hypergradient=gradient,
        valid_loss=assembly.valid_loss(outer.values),
        weights=training.flat.unflatten(passed.state["weights"]),
        state=assembly.public_state(training, passed.state),
        train_loss=passed.losses,
        hyperparameters=hyper,
        method="forward",
        info={"jacobian_norm": loops.norms_by_name(passed.norms)},
    )


class Passed(NamedTuple):
    """Some steps of training, with the tangents of the state."""

    state: State
    tangents: State  # each slot with a leading axis of H
    losses: tf.Tensor  # [steps], before each
    norms: tf.Tensor  # [steps, names], of ∂w/∂λ after each
    bad_step: tf.Tensor  # int32, the first one that was not finite, or -1


class ForwardLoops:
    """The compiled functions of forward mode for a training.

    Attributes:
      columns: The number of columns, H.
    """

    def __init__(self, training: Training, together: int):
        """Makes the functions; each is traced when it is first called.

        Args:
          training: The training to run.
          together: The number of columns that are written out in the graph.

        Raises:
          ValueError: If `together` is not positive.
        """
        if together < 1:
            raise ValueError(f"Expected together >= 1, got {together}.")
        self._training = training
        resolver = training.resolver
        self._sizes = [shape.num_elements() for shape in resolver.leaf_shapes]
        self.columns = sum(self._sizes)
        self._together = min(together, self.columns)
        self._offsets = [sum(self._sizes[:i]) for i in range(len(self._sizes))]
        self.begin = tf.function(self._begin, autograph=False)
        self.advance = tf.function(self._advance, autograph=False)
        self.outer = tf.function(training.outer, autograph=False)

    def hypergradient(self, tangents: State, outer: Outer) -> Any:
        """Returns E_λ + Zᵀ E_w by name."""
        through, direct = [], []
        for loss in self._training.problem.outer_losses:
            along = tf.linalg.matvec(tangents["weights"], outer.in_weights[loss])
            through.append(
                [
                    tf.cast(tf.reshape(part, like.shape), like.dtype)
                    for part, like in zip(
                        tf.split(along, self._sizes), outer.direct[loss], strict=True
                    )
                ]
            )
            direct.append(outer.direct[loss])
        return assembly.hypergradient(self._training, [through, direct])

    def norms_by_name(self, norms: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns [steps, names] as a dictionary."""
        return dict(zip(self._training.resolver.names, tf.unstack(norms, axis=1), strict=True))

    def _begin(self, weights: Any, hyper: Rows, seed: tf.Tensor) -> tuple[State, State]:
        training = self._training
        state = training.initial_state(weights, hyper, seed)
        if not training.dependencies.initial:
            return state, {
                name: tf.zeros([self.columns, *slot.shape], slot.dtype)
                for name, slot in state.items()
            }
        linear = custom_op.linearize(
            lambda hyper: training.initial_state(weights, hyper, seed), hyper, unconnected="zero"
        )
        basis = [
            tf.reshape(
                tf.one_hot(tf.range(self.columns) - offset, size, dtype=dtype),
                [self.columns, *shape],
            )
            for offset, size, shape, dtype in zip(
                self._offsets,
                self._sizes,
                training.resolver.leaf_shapes,
                training.resolver.leaf_dtypes,
                strict=True,
            )
        ]
        return linear.outputs, self._push(linear, training.resolver.pack(basis))

    def _advance(
        self,
        state: State,
        tangents: Any,
        hyper: Rows,
        seed: tf.Tensor,
        start: tf.Tensor,
        stop: tf.Tensor,
    ) -> Passed:
        training, length = self._training, stop - start
        names = sorted(state)
        losses = tf.TensorArray(training.flat.dtype, length, element_shape=[])
        norms = tf.TensorArray(
            training.flat.dtype, length, element_shape=[len(training.resolver.names)]
        )

        apart = self._together >= self.columns
        if apart:
            # Columns that are all written out stay separate tensors: stacking and cutting them in
            # every step would take a tenth longer.
            tangents = self._apart(tangents)

        def push(linear: custom_op.Linearization, tangents: Any) -> Any:
            if not apart:
                return self._push(linear, tangents)
            rows = self._apart(tangents["rows"])
            return [
                linear.jvp({"state": column, "rows": row})
                for column, row in zip(tangents["state"], rows, strict=True)
            ]

        def body(
            step: tf.Tensor,
            state: State,
            tangents: Any,
            losses: tf.TensorArray,
            norms: tf.TensorArray,
            bad: tf.Tensor,
        ) -> tuple[Any, ...]:
            i = step - start
            rows = training.resolver.rows(hyper, step)
            seen = {}

            def transition(primals: dict[str, Any]) -> State:
                after, seen["loss"] = training.step(primals["state"], primals["rows"], step, seed)
                return {name: after[name] for name in names}

            primals = {"state": state, "rows": rows}
            linear = custom_op.linearize(transition, primals, unconnected="zero")
            tangents = push(linear, {"state": tangents, "rows": self._row_basis(step)})
            state, loss = linear.outputs, tf.cast(seen["loss"], training.flat.dtype)
            losses = losses.write(i, loss)
            norms = norms.write(i, self._norms(tangents))
            bad = tf.where((bad < 0) & guards.is_bad(state, loss), step, bad)
            return step + 1, state, tangents, losses, norms, bad

        _, state, tangents, losses, norms, bad = tf.while_loop(
            lambda step, *_: step < stop,
            body,
            (start, state, tangents, losses, norms, tf.constant(-1)),
            parallel_iterations=1,
        )
        if apart:
            tangents = _stacked(tangents)
        return Passed(state, tangents, losses.stack(), norms.stack(), bad)

    def _apart(self, tangents: Any) -> list[Any]:
        """Returns the columns, one by one."""
        return [
            tf.nest.map_structure(lambda leaf, h=h: leaf[h], tangents) for h in range(self.columns)
        ]

    def _norms(self, tangents: Any) -> tf.Tensor:
        """Returns ‖∂w/∂λ‖ by name, from columns that are stacked or apart."""
        if isinstance(tangents, list):
            squares = [2 * tf.nn.l2_loss(column["weights"]) for column in tangents]
        else:
            squares = tf.unstack(tf.reduce_sum(tangents["weights"] ** 2, 1))
        resolver = self._training.resolver
        owners = [
            owner
            for owner, size in zip(resolver.leaf_owner, self._sizes, strict=True)
            for _ in range(size)
        ]
        of_name = [
            tf.add_n(
                [square for square, owner in zip(squares, owners, strict=True) if owner == name]
            )
            for name in resolver.names
        ]
        return tf.sqrt(tf.stack(of_name))

    def _row_basis(self, step: tf.Tensor) -> Rows:
        """Returns the hyperparameters of a step as the columns have them, [H, ...] in each leaf."""
        resolver = self._training.resolver
        basis = []
        for offset, shape, dtype, scheduled in zip(
            self._offsets,
            resolver.leaf_shapes,
            resolver.leaf_dtypes,
            resolver.scheduled,
            strict=True,
        ):
            row = shape[1:] if scheduled else shape
            size = row.num_elements()
            first = offset + step * size if scheduled else offset
            one_hot = tf.one_hot(tf.range(self.columns) - first, size, dtype=dtype)
            basis.append(tf.reshape(one_hot, [self.columns, *row]))
        return resolver.pack(basis)

    def _push(self, linear: custom_op.Linearization, tangents: Any) -> Any:
        """Pushes all columns: written out if they are few, otherwise in a loop over groups."""

        def push(group: Any) -> Any:
            pushed = [
                linear.jvp(tf.nest.map_structure(lambda leaf, h=h: leaf[h], group))
                for h in range(self._together)
            ]
            return _stacked(pushed)

        if self._together >= self.columns:
            return push(tangents)
        groups = -(-self.columns // self._together)
        missing = groups * self._together - self.columns

        def split(leaf: tf.Tensor) -> tf.Tensor:
            padded = tf.pad(leaf, [[0, missing]] + [[0, 0]] * (leaf.shape.rank - 1))
            return tf.reshape(padded, [groups, self._together, *leaf.shape[1:]])

        def join(leaf: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
            return tf.reshape(leaf, [groups * self._together, *like.shape])[: self.columns]

        specs = tf.nest.map_structure(
            lambda output: tf.TensorSpec([self._together, *output.shape], output.dtype),
            linear.outputs,
        )
        pushed = tf.map_fn(
            push,
            tf.nest.map_structure(split, tangents),
            fn_output_signature=specs,
            parallel_iterations=1,
        )
        return tf.nest.map_structure(join, pushed, linear.outputs)


def _stacked(columns: list[Any]) -> Any:
    return tf.nest.map_structure(lambda *leaves: tf.stack(leaves), *columns)


def forward_loops(training: Training, together: int) -> ForwardLoops:
    """Returns the functions of a training; the same ones at every call."""
    key = ("forward", together)
    if key not in training.functions:
        training.functions[key] = ForwardLoops(training, together)
    return training.functions[key]
