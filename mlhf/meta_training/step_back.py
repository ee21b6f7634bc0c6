"""One step of a rollout backwards: from its solution to the weights and to the states before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from mlhf.layout import Layout
from mlhf.meta_optimizer import coordinate_lstm, recorded_cg
from mlhf.meta_optimizer.coordinate_lstm import Cotangent, LSTMWeights
from mlhf.meta_optimizer.lstm_inputs import lstm_inputs
from mlhf.meta_optimizer.rule import Rule


def flows(rule: Rule) -> list[str]:
    """Returns the "objective/role" pairs whose cotangents cross time through an LSTM's state.

    h teaches x and y, and reaches x through y, too. The meta loss teaches d, and reaches it through
    y, too; its gradients for x and y are not used, and x does not depend on d.
    """
    pairs = []
    if rule.y_use == "rnn":
        pairs.append("h/y")
        if rule.d_use == "rnn":
            pairs.append("meta/y")
    if rule.x_use == "rnn":
        pairs.append("h/x")
    if rule.d_use == "rnn":
        pairs.append("meta/d")
    return pairs


class StepBack:
    """The cotangents of one step."""

    def __init__(
        self,
        rule: Rule,
        weights: dict[str, LSTMWeights],
        layout: Layout,
        row: Any,
        damped: Callable[[tf.Tensor], tf.Tensor],
        d_solution: Mapping[str, tf.Tensor],
        unrolled: bool,
    ) -> None:
        """Describes a step.

        Args:
          rule: The settings that say what is learned.
          weights: The LSTMs' weights by role.
          layout: The layout of the flat vectors.
          row: The step's `rollout.Row`.
          damped: The product with A.
          d_solution: The cotangents of the solution, by objective: `"h"`, `"meta"`.
          unrolled: Whether conjugate gradients are written out instead of looped.
        """
        self._rule, self._weights, self._layout, self._unrolled = rule, weights, layout, unrolled
        self._row, self._damped, self._d_solution = row, damped, d_solution
        self._memory = [row.gradient, row.state.residual, row.state.solution]

    def take(
        self, gradients: Mapping[str, LSTMWeights], d_states: Mapping[str, Any]
    ) -> tuple[dict[str, LSTMWeights], dict[str, Any]]:
        """Takes the solution's cotangents to the weights and to the states before the step.

        Args:
          gradients: The weights' gradients by role, summed over later steps.
          d_states: The cotangents of the LSTMs' states after the step, by `flows`.

        Returns:
          The gradients with this step's added, and the cotangents of the states before it.
        """
        proposal = self._row.proposal
        self._gradients, self._d_states = dict(gradients), dict(d_states)
        self._d_start = dict(self._d_solution)
        self._d_residual, d_diagonal, d_delta = {}, {}, {}
        live = [name for name in ("h", "meta") if any(f.startswith(name) for f in d_states)]
        for name in live:
            d_diagonal[name], d_delta[name], self._d_residual[name] = recorded_cg.solution_vjp(
                self._damped,
                proposal.diagonal,
                proposal.trajectory,
                self._d_solution[name],
                self._unrolled,
            )
        if self._rule.y_use == "rnn":
            self._to_preconditioner([n for n in live if f"{n}/y" in d_states], d_diagonal)
        if self._rule.x_use == "rnn":
            # r₀ = g - A x₀.
            total = self._d_start["h"] - self._damped(self._d_residual["h"])
            self._to_role("x", "h", total * self._layout.mask())
        if self._rule.d_use == "rnn":
            total = d_delta["meta"] - self._d_residual["meta"] * proposal.start
            slope = tf.sigmoid(proposal.delta_drive)
            self._to_role("d", "meta", self._rule.damping_scale * total * slope)
        return self._gradients, self._d_states

    def _to_preconditioner(self, names: Sequence[str], d_diagonal: Mapping[str, tf.Tensor]) -> None:
        proposal = self._row.proposal
        slope = tf.sigmoid(proposal.diagonal_drive)
        # The start's LSTM needs what reaches r₀ and x₀; the damping's needs what reaches r₀.
        wanted = {"h": (1, 2) if self._rule.x_use == "rnn" else (), "meta": (1,)}
        results = self._back(
            "y",
            [self._row.gradient, proposal.start_residual, proposal.start],
            [
                Cotangent(
                    d_diagonal[name] * slope, self._d_states[f"{name}/y"], name == "h", wanted[name]
                )
                for name in names
            ],
        )
        for name, (gradient, inputs, before) in zip(names, results, strict=True):
            self._d_states[f"{name}/y"] = before
            if gradient is not None:
                self._add("y", gradient)
            if 1 in inputs:
                self._d_residual[name] += inputs[1]
            if 2 in inputs:
                self._d_start[name] += inputs[2]

    def _to_role(self, role: str, objective: str, d_output: tf.Tensor) -> None:
        """Takes the cotangent of an LSTM's output back to its weights and its state."""
        flow = f"{objective}/{role}"
        cotangent = Cotangent(d_output, self._d_states[flow], True, ())
        ((gradient, _, before),) = self._back(role, self._memory, [cotangent])
        self._d_states[flow] = before
        self._add(role, gradient)

    def _back(
        self, role: str, inputs: Sequence[tf.Tensor], cotangents: Sequence[Cotangent]
    ) -> list[tuple[Any, ...]]:
        layout = self._layout
        blocks, factors = lstm_inputs(self._rule, layout, inputs)
        results = coordinate_lstm.vjp(
            self._weights[role],
            layout.kind_of_block,
            blocks,
            self._row.state.lstm[role],
            [c._replace(output=layout.to_blocks(c.output)) for c in cotangents],
        )

        def unscaled(position: int, d_input: tf.Tensor) -> tf.Tensor:
            flat, factor = tf.reshape(d_input, [layout.size]), factors[position]
            return flat if factor is None else factor * flat

        return [
            (gradient, {i: unscaled(i, value) for i, value in d_inputs.items()}, before)
            for gradient, d_inputs, before in results
        ]

    def _add(self, role: str, gradient: LSTMWeights) -> None:
        self._gradients[role] = LSTMWeights(
            *[total + part for total, part in zip(self._gradients[role], gradient, strict=True)]
        )
