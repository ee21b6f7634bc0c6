"""MLHF, the meta-learned Hessian-free optimizer (Chen, Lu and Fokoue 2018, arXiv 1805.08462)."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, overload

import tensorflow as tf

from custom_op import structures
from mlhf.checks.arguments import check_count, check_number
from mlhf.checks.structures import check_path
from mlhf.kinds import with_layers
from mlhf.layout import Layout
from mlhf.meta_optimizer import loading, metrics, portable_state, weights_file
from mlhf.meta_optimizer.coordinate_lstm import LSTMWeights
from mlhf.meta_optimizer.learned_weights import LearnedWeights
from mlhf.meta_optimizer.live_weights import LiveWeights
from mlhf.meta_optimizer.meta_muon import MetaMuon
from mlhf.meta_optimizer.proposal import propose, shorten
from mlhf.meta_optimizer.rule import MetaState, Rule, zero_state
from mlhf.models import keras_models
from mlhf.objective import Objective
from mlhf.optimizers.curvature_shares import linearize_shares
from mlhf.optimizers.damping import adapt_damping, model_decrease
from mlhf.optimizers.settings import Fixed, Number
from mlhf.optimizers.step import CompiledSteps, Step
from mlhf.optimizers.step_arguments import as_parameters, as_tensors, check_objective, note_layout


class MetaHessianFree(LearnedWeights, CompiledSteps):
    """Hessian-free steps whose damping, preconditioner and start come from a learned LSTM.

    With g the gradient, G = Jᵀ H J the Gauss-Newton matrix, and x₋, r₋ the solution and the
    residual of the step before,

        δ  = s · softplus(LSTM_d(g, r₋, x₋)) + damping     A = G + diag(δ)
        x₀ = x₋, or g, or LSTM_x(g, r₋, x₋)             r₀ = g - A x₀
        P  = softplus(LSTM_y(g, r₀, x₀))
        x, r by `cg_iterations` preconditioned conjugate-gradient iterations
        w ← w - lr x

    Entries of gradients are often far below one, where an LSTM can't tell them apart: scaled inputs
    (`input_scale="rms"`) make what it learns independent of the sizes of network and batch. The
    scale of the curvature differs between networks, and a learned damping has that of the networks
    it was learned on, which s (`damping_scale`) corrects. On networks unlike those, single solves
    can be wrong by factors of hundreds: `longest_step` bounds them as in meta-training, where it is
    0.25; the meta-optimizers that ship with the package have that bound, too.

    One set of LSTM weights serves all coordinates of a kind of variable. A new optimizer's weights
    are random: meta-train it (`mlhf.meta_train`) or load trained weights (`from_pretrained`).

    Attributes:
      learning_rate: lr; a new value holds from the next step on.
      damping: The constant; a new value holds from the next step on. If it is adapted, it is part
        of the state, and the attribute is its value in states that `init` makes from then on.
      weights: The LSTMs' weights by role, or None before the kinds of variables are known; new
        weights hold from the next step on.
      kinds: The kinds that the weights are for, in their order.
      rule: The settings that say what is learned.
    """

    learning_rate = Number(above=0, schedule=True)
    damping = Number(at_least=0)
    rule, detailed, longest_step = Fixed(), Fixed(), Fixed()

    def __init__(
        self,
        learning_rate: float = 1.0,
        *,
        cg_iterations: int = 2,
        x_use: str = "x",
        y_use: str = "rnn",
        d_use: str = "rnn",
        damping: float = 2e-5,
        damping_type: str = "regular",
        decay: float = 0.9,
        curvature_share: float = 1.0,
        input_scale: str = "none",
        damping_scale: float = 1.0,
        inputs: str = "grx",
        longest_step: float | None = None,
        initial_damping: float | None = None,
        kinds: Any = None,
        seed: int = 0,
        product_dtype: str | None = None,
        jit_compile: bool = False,
        detailed: bool = False,
    ) -> None:
        """Sets an optimizer up.

        Args:
          learning_rate: lr, positive: a number, a tensor, or a variable, read at every step; or a
            function of the steps taken, such as one of `keras.optimizers.schedules`, with which it
            neither meta-trains nor can be saved.
          cg_iterations: The conjugate-gradient iterations per step, each one product with G.
          x_use: Their start: `"x"` the last solution, `"d"` the gradient, `"rnn"` learned.
          y_use: The preconditioner: `"rnn"` learned, `"none"` ones.
          d_use: The damping: `"rnn"` learned, added to the constant, `"none"` the constant alone.
          damping: The constant, at least 0; if it is adapted, its first value, from then on within
            [1e-3, 1].
          damping_type: The kind of constant: `"regular"` (not adapted) or `"LM_heuristics"`.
          decay: The factor of the heuristic, between 0 and 1.
          curvature_share: The share of the batch that G is taken on, its first examples: above 0
            and at most 1. The gradient is that of the whole batch.
          input_scale: The scale at which the LSTMs see g, r and x: `"none"` as they are, as in the
            paper; `"rms"` each divided by the root mean square of its variable's entries.
          damping_scale: s, positive: the one number to try beside the learning rate on a network
            unlike those of meta-training.
          inputs: The vectors that the LSTMs see, as letters: `"grx"` all, as in the paper, `"g"`
            the gradient alone. The others are zero. It serves to find out what each is worth.
          longest_step: The largest length of a step, as a share of ‖w‖; longer ones are shortened.
            None for no bound, as in the paper's training.
          initial_damping: The approximate output of the damping's LSTM before it has learned: its
            dense layer's bias is set to the inverse softplus of it. None for the paper's bias of 0,
            for which the output is 0.69. It concerns new weights only.
          kinds: The kinds of variables where paths and layers do not tell them, as for
            `mlhf.kinds.resolve_kinds`.
          seed: The seed of the random weights.
          product_dtype: The dtype of the network's part of products with G: `"bfloat16"` is about
            three times as fast on processors with such units, with errors of up to 1%; None, the
            default, is the parameters' dtype. Gradient, loss and the vectors of conjugate gradients
            stay in the parameters' dtype either way.
          jit_compile: Whether a step is compiled with XLA as a whole (good on a GPU, bad for a
            CPU's convolutions; the LSTMs are compiled by themselves either way).
          detailed: Whether the metrics have `g_length_in_A`, ‖g‖²/√<g, A g>, which costs another
            product with G, and `w_norm`.

        Raises:
          ValueError: If a value makes no sense; the message says what was expected.
        """
        arguments = locals()
        super().__init__(jit_compile)
        self.rule = Rule(**{name: arguments[name] for name in Rule.names()})
        self.longest_step = self.rule.longest_step
        self.learning_rate, self.damping = learning_rate, damping
        if initial_damping is not None:
            check_number("initial_damping", initial_damping, above=0)
        self._begin_weights(check_count("seed", seed, 0), initial_damping)
        self.detailed = detailed
        self._given_kinds = kinds
        # The kinds by the structures that `init` saw: a network's layers tell what paths may not.
        self._kinds_of: dict[Any, Any] = {}

    @overload
    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, steps: None = None, **overrides: Any
    ) -> MetaHessianFree: ...

    @overload
    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path | None = None, *, steps: int, **overrides: Any
    ) -> MetaMuon: ...

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path | None = None, steps: int | None = None, **overrides: Any
    ) -> MetaHessianFree | MetaMuon:
        """Loads a trained optimizer.

        Args:
          name_or_path: A name that ships with the package (`mlhf.pretrained_names()`), a file
            that `save` wrote, or the folder of a meta-training; with `steps`, the file of a
            `mlhf.MetaMuon`, None for the one that ships.
          steps: The number of steps that training takes: for the `mlhf.MetaMuon` of so many steps,
            which has nothing to tune. None for a MetaHessianFree.
          **overrides: Arguments of the constructor that differ from those it was saved with, such
            as `learning_rate`.

        Returns:
          The optimizer: a MetaHessianFree, or with `steps` a `mlhf.MetaMuon`.

        Raises:
          FileNotFoundError: If there is no such name or file.
          TypeError: If neither a name nor a number of steps is given.
          ValueError: If the file is damaged or an override is not an argument.
        """
        if steps is not None:
            return loading.controlled(name_or_path, steps, overrides)
        content, settings = loading.loaded(name_or_path, cls().settings, _arguments(), overrides)
        optimizer = cls(**settings)
        weights = loading.weights_of(name_or_path, content, optimizer.rule.roles)
        optimizer.set_weights(content.kinds, weights)
        return optimizer

    def save(self, path: str | Path) -> Path:
        """Writes the weights and settings to one file of a few kilobytes.

        Args:
          path: The path of the file; `.npz` is added if it is missing.

        Returns:
          The file's path.

        Raises:
          ValueError: If there are no weights yet.
          OSError: If it can't be written; nothing half-written is left.
        """
        if self.weights is None or self.kinds is None:
            raise ValueError("There are no weights to save yet; call init(parameters) first.")
        check_path("the path of a file", path)
        return weights_file.write(path, self.settings, self.kinds, self.weights)

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments that a file keeps, in its order."""
        values = {
            name: float(self._number(name, tf.float64)) for name in ("learning_rate", "damping")
        }
        values.update(self.rule.saved)
        return {name: values[name] for name in _arguments() if name in values}

    @property
    def given_kinds(self) -> Any:
        """The kinds of variables that the constructor was given, None for none."""
        return self._given_kinds

    def layout(self, parameters: Any, kinds: Any = None) -> Layout:
        """Returns how parameters lie in the flat vectors of the state.

        Args:
          parameters: A structure of floating tensors.
          kinds: The kinds, as for the constructor; None for those that `init` had for such
            parameters, or else the constructor's.
        """
        if kinds is None:
            kinds = self._kinds_of.get(_structure_key(parameters), self._given_kinds)
        return Layout(parameters, kinds)

    def init(self, parameters: Any, kinds: Any = None) -> MetaState:
        """Returns the state before the first step, and draws weights if there are none.

        Args:
          parameters: A structure of floating tensors, or a built Keras model, whose layers then
            say the kinds of its variables.
          kinds: The kinds, as for the constructor; None for those of an earlier `init` of such
            parameters (a meta-training's, say), or else the constructor's.

        Returns:
          The state: flat vectors and the LSTMs' states, all zero.

        Raises:
          ValueError: If the kind of a variable is unknown, or not among those that the weights were
            trained for.
        """
        if keras_models.is_model(parameters):
            kinds = with_layers(parameters, self._given_kinds if kinds is None else kinds)
            parameters = keras_models.get_parameters(parameters)
        elif kinds is None:
            parameters = as_tensors(parameters)
            kinds = self._kinds_of.get(_structure_key(parameters), self._given_kinds)
        layout = Layout(parameters, kinds)
        self._kinds_of[_structure_key(parameters)] = kinds
        if self.weights is None:
            self.draw_weights(layout.kinds, layout.dtype)
        self._check_kinds(layout)
        state = self._with_count(zero_state(self.rule, layout, type(self).damping.read(self)))
        note_layout(state, parameters)
        return state

    def _state_like(self, parameters: Any) -> MetaState:
        return zero_state(self.rule, self.layout(parameters), 0.0)

    def init_for(self, task: Any, parameters: Any) -> MetaState:
        """Returns the state before the first step, with the kinds of a task's variables."""
        return self.init(parameters, task.variable_kinds())

    def finite_part(self, state: MetaState) -> MetaState:
        """Returns a state without the LSTMs' states, which take most memory and are bounded."""
        return state._replace(lstm={})

    def to_saved(self, state: MetaState, parameters: Any) -> dict[str, Any]:
        """Returns a state as dictionaries of tensors, without what depends on the machine."""
        return portable_state.to_portable(state, self.layout(parameters))

    def from_saved(self, saved: Any, like: Any, parameters: Any, finite: bool = False) -> MetaState:
        """Returns the state that `to_saved` took apart, in the structure of `like`."""
        return portable_state.from_portable(saved, like, self.layout(parameters), finite)

    def step(self, objective: Objective, parameters: Any, state: MetaState) -> Step:
        """Takes one step.

        Args:
          objective: The loss on a batch.
          parameters: The parameters before the step.
          state: The state from `init` or the step before.

        Returns:
          New parameters, state and model state, and metrics: `loss`, `gradient_norm`,
          `step_norm`, `damping`, `mean_delta`, and those of the original's log (`x_by_g`,
          `r_norm`, `minus_h`, `g_dot_x`, `g_square`, `cg_iterations`; if `detailed`, also
          `g_length_in_A` and `w_norm`).

        Raises:
          ValueError: If there are no weights yet.
        """
        if self.weights is None:
            raise ValueError("There are no weights yet; call init(parameters) before step.")
        check_objective(objective)
        parameters = as_parameters(parameters)
        layout = self.layout(parameters)
        return self._take(
            objective, parameters, state, self.weights_for(layout), key=layout.signature
        )

    def _step(
        self,
        objective: Objective,
        parameters: Any,
        state: MetaState,
        numbers: dict[str, tf.Tensor],
        weights: dict[str, LSTMWeights],
    ) -> tuple[Any, ...]:
        layout = self.layout(parameters)
        if self.rule.damping_type == "regular":
            state = state._replace(damping=numbers["damping"])
        rate = numbers["learning_rate"]
        return self.step_in(layout, objective, parameters, state, weights, rate)

    def step_in(
        self,
        layout: Layout,
        objective: Objective,
        parameters: Any,
        state: MetaState,
        weights: dict[str, LSTMWeights],
        rate: tf.Tensor,
    ) -> tuple[Any, MetaState, Any, dict[str, tf.Tensor]]:
        """Takes a step as a function of all that it depends on, to be traced inside another.

        Args:
          layout: The layout of the parameters, whose kinds the weights are for, in its order.
          objective: The loss on a batch.
          parameters: The parameters before the step.
          state: The state after the step before.
          weights: The LSTMs' weights by role.
          rate: lr.

        Returns:
          New parameters, state and model state, and the metrics of `step`.
        """
        linearized, curvature = linearize_shares(
            objective, parameters, layout, self.rule.curvature_share, self.rule.product_dtype
        )
        gradient = layout.flatten(linearized.gradient())
        proposal, after = propose(
            self.rule, weights, layout, curvature, gradient, state, guarded=True
        )
        here = layout.flatten(parameters)
        if self.longest_step is not None:
            longest = self.longest_step * tf.norm(here) / rate
            proposal, after = shorten(proposal, after, gradient, longest)
        moved = layout.unflatten(here - rate * proposal.solution)
        if self.rule.damping_type == "LM_heuristics":
            predicted = model_decrease(gradient, proposal.solution, after.residual, rate)
            damping = adapt_damping(
                state.damping,
                linearized.data_loss,
                objective.data_loss(moved),
                predicted,
                self.rule.decay,
            )
            after = after._replace(damping=damping)
        scalars = metrics.of_step(
            layout,
            linearized,
            gradient,
            proposal,
            state.damping,
            rate,
            curvature if self.detailed else None,
        )
        return moved, after, linearized.model_state, scalars

    def __getstate__(self) -> dict[str, Any]:
        # A copy has no graphs yet.
        return {**super().__getstate__(), "_live": LiveWeights(), "_kinds_of": {**self._kinds_of}}

    def _settable(self) -> list[str]:
        return [*super()._settable(), "weights"]


def _structure_key(parameters: Any) -> tuple[Any, ...]:
    """Returns what tells structures of parameters apart: paths and shapes."""
    shapes = [tuple(leaf.shape) for leaf in tf.nest.flatten(parameters) if hasattr(leaf, "shape")]
    return tuple(structures.leaf_names(parameters)), tuple(shapes)


def _arguments() -> list[str]:
    """Returns the names of the constructor's arguments."""
    return list(inspect.signature(MetaHessianFree).parameters)
