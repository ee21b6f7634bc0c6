"""Particles of evolution that an executor trains, in this process or in others."""

from __future__ import annotations

import uuid
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mlhf.meta_training.antithetic_pairs import Particles
from mlhf.meta_training.rollout import Carry

# Particles by their marks: those of this process's own trainings, and those made for others.
_OWN: weakref.WeakValueDictionary[str, Particles] = weakref.WeakValueDictionary()
_MADE: dict[str, Particles] = {}
# A process keeps those of the last few tasks.
_MOST_MADE = 8


class ParticlesApart:
    """A function that trains a particle of a task, wherever it is called.

    A process that gets it makes the task's particles once, and traces a training once.
    """

    def __init__(self, particles: Particles, seed: int) -> None:
        """Sets it up.

        Args:
          particles: The task's particles, whose kinds are set.
          seed: The seed that they were made with.
        """
        self._mark = uuid.uuid4().hex
        self._about = particles.task, particles.optimizer, seed, tuple(particles.kinds)
        _OWN[self._mark] = particles

    def __call__(self, carry: Any, weights: Any, rate: Any, batches: Any) -> tuple[Any, np.ndarray]:
        """Trains one particle; arguments and results are structures of arrays."""
        particles = self._particles()
        weights, rate, batches = tf.nest.map_structure(
            tf.convert_to_tensor, (weights, rate, batches)
        )
        after, losses = particles.advance(particles.carry(carry), weights, rate, batches)
        return _arrays(particles.saved(after)), losses

    def map(
        self, executor: Any, carries: Sequence[Carry], weights: Sequence[Any], rates: Sequence[Any],
        batches: Any,
    ) -> Iterable[tuple[Carry, np.ndarray]]:  # fmt: skip
        """Yields the carries and losses of particles that an executor trains at once.

        Args:
          executor: Anything with `map`.
          carries: The points where they stand.
          weights: The LSTMs' weights of each.
          rates: The learning rate of each.
          batches: The batches of all.
        """
        particles = self._particles()
        states = [_arrays(particles.saved(carry)) for carry in carries]
        same = [_arrays(batches)] * len(states)
        results = executor.map(
            self, states, [_arrays(one) for one in weights], [_arrays(one) for one in rates], same
        )
        for saved, losses in results:
            yield particles.carry(saved), losses

    def _particles(self) -> Particles:
        known = _OWN.get(self._mark) or _MADE.get(self._mark)
        if known is not None:
            return known
        task, optimizer, seed, kinds = self._about
        made = Particles(task, optimizer, seed)
        made.kinds = list(kinds)
        while len(_MADE) >= _MOST_MADE:
            del _MADE[next(iter(_MADE))]
        _MADE[self._mark] = made
        return made


def _arrays(structure: Any) -> Any:
    return tf.nest.map_structure(np.asarray, structure)
