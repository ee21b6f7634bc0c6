"""One optimizer on several devices or machines, each with a share of every batch."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from mlhf import keras_internals
from mlhf.checks.structures import kind
from mlhf.distribute import lost_processes
from mlhf.distribute.agreement import Agreement
from mlhf.distribute.parallel_objective import ParallelObjective
from mlhf.distribute.replicas import Replicas
from mlhf.objective import Objective
from mlhf.optimizers.least_squares.levenberg_marquardt import LevenbergMarquardt
from mlhf.optimizers.protocol import complete
from mlhf.optimizers.step import Step
from mlhf.optimizers.step_arguments import as_parameters, as_tensors, check_objective


class DataParallel:
    """An optimizer whose batches are divided among the replicas of a `tf.distribute` strategy.

        strategy = tf.distribute.MirroredStrategy()
        optimizer = mlhf.distribute.DataParallel(strategy, mlhf.HessianFree())
        state = optimizer.init(parameters)
        step = optimizer.step(objective, parameters, state)

    Gradients, curvature products, losses and K-FAC's factors are means over the whole batch. Each
    replica computes those of its share, and a sum over replicas joins them: one collective of the
    length of the parameters for the gradient and one for each product. All else (conjugate
    gradients, learned rules, the update) every process does by itself on the same numbers. Before
    each step processes compare their parameters and states, and where these differ go on with the
    first process's.

    The objective's batch is this process's part of the whole: with a MirroredStrategy, which has
    one process, the whole batch; with a MultiWorkerMirroredStrategy a part for each process
    (`dataset.shard(optimizer.processes, optimizer.process)`). Parts may differ in size. It is
    divided evenly among the process's replicas. Step outside of the strategy's `run`; models need
    not be made in its scope.

    What differs from one device:

    - BatchNormalization normalizes by the statistics of a replica's share, as Keras' `fit` does
      under a strategy; moving statistics are averaged. With `synchronized=True` it is refused.
    - A `curvature_share` (K-FAC: `factor_share`) takes the first examples of each replica's share.
    - A network function that draws random numbers without a Keras seed in its state draws the same
      ones for each replica's share.

    Attributes:
      optimizer: The optimizer.
      strategy: The strategy.
      processes: The number of processes.
      process: The number of this process; the first, 0, is the one to write files.
    """

    def __init__(self, strategy: Any, optimizer: Any) -> None:
        """Divides an optimizer's batches.

        Args:
          strategy: A `tf.distribute.MirroredStrategy` or `MultiWorkerMirroredStrategy`.
          optimizer: An optimizer of this package, or another with `init` and `step` that asks an
            objective for losses, gradients and curvature products only.

        Raises:
          TypeError: If the strategy is of another kind, or the optimizer is
            `mlhf.LevenbergMarquardt`, which needs the whole batch's Jacobian.
          ValueError: If the optimizer's steps are compiled by XLA, which has one device.
        """
        self._replicas = Replicas(strategy)
        if isinstance(optimizer, LevenbergMarquardt):
            raise TypeError(
                "Expected an optimizer that takes gradients and curvature products, got "
                "LevenbergMarquardt, which needs the Jacobian of the whole batch in one place: "
                "give mlhf.MartensHessianFree."
            )
        if getattr(optimizer, "jit_compile", False):
            raise ValueError(
                "Expected an optimizer with jit_compile=False, got one whose steps XLA compiles "
                "for one device; the collectives between devices are outside of XLA."
            )
        self.optimizer, self.strategy = optimizer, strategy
        self.processes = self._replicas.processes
        self.process = self._replicas.own[0] // len(self._replicas.own)
        self._complete = complete(optimizer)
        self._agreement = Agreement(self._replicas)

    def init(self, parameters: Any) -> Any:
        """Returns the optimizer's state before the first step."""
        return self._complete.init(parameters)

    def init_for(self, task: Any, parameters: Any) -> Any:
        """Returns that state, with what the task tells of the parameters."""
        return self._complete.init_for(task, parameters)

    def step(self, objective: Objective, parameters: Any, state: Any) -> Step:
        """Takes one step; every process has to.

        Args:
          objective: The loss on this process's part of the batch.
          parameters: The parameters before the step.
          state: The state from `init` or the step before.

        Returns:
          What the optimizer's step returns. With several processes the metrics have `synchronized`
          too, 1 if the first process's parameters, state and model state were taken because they
          differed between processes, else 0.

        Raises:
          ValueError: If the part has fewer examples than this process has replicas, or a model's
            normalization is synchronized.
          ConnectionError: If another process has ended; what went in is as it was.
        """
        check_objective(objective)
        _check_normalization(objective)
        if self.processes == 1:
            return self._complete.step(self._divided(objective), parameters, state)
        parameters, state = as_parameters(parameters), as_tensors(state)
        model_state, rest = objective.model_state, objective.tensors
        (parameters, _, model_state), state, differed = self._agreement(
            (parameters, self._complete.finite_part(state), model_state), state
        )
        tensors = (*rest[:2], model_state, *rest[3:])
        objective = objective.__tf_unflatten__(objective.static, tensors)
        with lost_processes.told():
            step = self._complete.step(self._divided(objective), parameters, state)
        dtype = tf.nest.flatten(parameters)[0].dtype
        metrics = {**step.metrics, "synchronized": tf.cast(differed, dtype)}
        return Step(step.parameters, step.state, step.model_state, metrics)

    def from_first_process(self, value: Any) -> tf.Tensor:
        """Returns the first process's value of a number or tensor, in all processes.

        Every process has to call it, with values of one shape and dtype: for example with the
        number of steps done after the first process has read its checkpoint.

        Args:
          value: The value; that of other processes is not read.
        """
        return self._agreement.first(value)

    def in_any_process(self, flag: bool) -> bool:
        """Returns whether a flag is set in any process; every process has to call it."""
        return self._agreement.any(flag)

    def evaluation_parameters(self, parameters: Any, state: Any) -> Any:
        """Returns the parameters to evaluate, test and keep."""
        return self._complete.evaluation_parameters(parameters, state)

    def finite_part(self, state: Any) -> Any:
        """Returns the part of a state that has to be finite."""
        return self._complete.finite_part(state)

    def to_saved(self, state: Any, parameters: Any) -> dict[str, Any]:
        """Returns a state as dictionaries and lists of tensors; one process's is that of all."""
        return self._complete.to_saved(state, parameters)

    def from_saved(self, saved: Any, like: Any, parameters: Any, finite: bool = False) -> Any:
        """Returns the state that `to_saved` took apart, of any number of replicas."""
        return self._complete.from_saved(saved, like, parameters, finite)

    def without_xla(self) -> DataParallel:
        """Returns a copy that compiles its steps anew."""
        return DataParallel(self.strategy, self._complete.without_xla())

    def _divided(self, objective: Objective) -> Objective:
        return objective.map_terms(lambda term: ParallelObjective(term, self._replicas))


def _check_normalization(objective: Objective) -> None:
    """Raises ValueError for models whose replicas would have to talk inside the network."""
    for term in objective.terms:
        model = getattr(term.objective, "_model", None)
        layers = [] if model is None else keras_internals.layers_of(model)
        synchronized = [layer.name for layer in layers if getattr(layer, "synchronized", False)]
        if synchronized:
            raise ValueError(
                f"Expected layers that normalize by the statistics of a replica's share, got "
                f"{kind(model)} with {synchronized} of synchronized=True, whose derivatives would "
                "reach over all replicas: make them with synchronized=False."
            )
