"""Steps on random samples of an objective's examples, which grow as the network outlearns them.

As long as residuals everywhere say the same, a step on a sixteenth of them is as good as on all,
and Levenberg and Marquardt's method takes a fifth to a fiftieth of the time for it. A step on too
few fits those and no others, which shows at the next step: the loss on the new sample, before
anything was fitted to it, is larger than the loss on the old one after its step. Samples grow for
the same reason in Byrd, Chin, Nocedal and Wu, "Sample size selection in optimization methods for
machine learning" (2012), who look at the variance of gradients instead.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from mlhf.checks.arguments import check_choice, check_count
from mlhf.objective import Objective

GROWING = "growing"
# Of the examples, the share that `"growing"` begins with; of all at most and of each term at least
# so many.
_FIRST_SHARE, _MOST_AT_FIRST, _FEWEST = 1 / 16, 1000, 16
# The gap is the mean of ln(loss on a new sample / loss that was left on the one before) over so
# many steps. Samples are doubled when it is above `_MOST`; or when it is above `_LEAST`, and larger
# than what the loss on new samples has fallen by, as a logarithm, in as many steps.
_STEPS, _MOST, _LEAST = 8, 1.0, 0.1
# Or when the logarithm has fallen by less than this in so many steps, and before by more than ln 2:
# then it is not the plateau at the beginning, from which larger samples are no way out.
_LONG, _SLOW = 16, 0.2
_GROWTH = 2
# Losses may reach zero.
_LARGEST = 20.0


class GrowingSample:
    """Random samples of an objective's examples, drawn anew for every step.

    Attributes:
      share: The share of the examples that the next sample has; from 1 on all of them.
    """

    def __init__(self, objective: Objective, first: int | str = GROWING, seed: int = 0) -> None:
        """Sets the first sample's size.

        Args:
          objective: The objective on all examples.
          first: The number of examples, of all terms together, of the first samples; or
            `"growing"`, for a sixteenth of them, but at most 1,000, and at least 16 of each term.
          seed: The seed of the samples.

        Raises:
          ValueError: If it is no positive number, or the number of examples is not known.
        """
        self._sizes = [term.objective.batch_size() for term in objective.terms]
        if any(tf.is_tensor(size) for size in self._sizes):
            raise ValueError(
                "Expected an objective whose number of examples is known, to draw samples of them, "
                "got one of unknown size: call minimize outside of a tf.function, or without "
                "sample=."
            )
        if isinstance(first, str):
            check_choice("sample", first, (GROWING,))
            self.share = min(_FIRST_SHARE, _MOST_AT_FIRST / sum(self._sizes))
            self._fewest = _FEWEST
        else:
            self.share, self._fewest = check_count("sample", first) / sum(self._sizes), 1
        self._random = np.random.default_rng(seed)
        # The logarithm of the first loss, less ln 2.
        self._first: float | None = None
        self._begin()
        self._value = tf.function(_value, autograph=False)

    @property
    def is_whole(self) -> bool:
        """Whether the samples are all examples, and will stay so."""
        return self._counts() == self._sizes

    def draw(self, objective: Objective) -> Objective:
        """Returns the objective on a new sample: of each term the same share of its examples."""
        if self.is_whole:
            return objective
        counts = iter(zip(self._sizes, self._counts(), strict=True))

        def sample(term: Objective) -> Objective:
            size, count = next(counts)
            return term.examples(tf.constant(self._random.permutation(size)[:count]))

        return objective.map_terms(sample)

    def note(self, sample: Objective, loss: Any, parameters: Any) -> None:
        """Notes a step on a sample, and lets the next ones grow.

        Args:
          sample: The sample.
          loss: The loss on it before the step.
          parameters: The parameters after the step.
        """
        if self.is_whole:
            return
        self._before.append(_logarithm(float(loss)))
        if self._first is None:
            self._first = self._before[0] - math.log(2)
        self._after.append(_logarithm(float(self._value(sample, parameters))))
        if self._are_too_small():
            self.share *= _GROWTH
            self._begin()

    def _begin(self) -> None:
        # The logarithms of losses before and after the steps on samples of this size.
        self._before: list[float] = []
        self._after: list[float] = []

    def _are_too_small(self) -> bool:
        """Returns whether steps fit samples of this size rather than all examples."""
        if len(self._before) <= _STEPS:
            return False
        gap = np.mean(np.subtract(self._before[-_STEPS:], self._after[-_STEPS - 1 : -1]))
        if len(self._before) < 2 * _STEPS:
            return bool(gap > _MOST)
        if gap > _MOST or (gap > _LEAST and gap > self._fall(_STEPS)):
            return True
        has_left = self._first is not None and np.mean(self._before[-_LONG:]) < self._first
        return bool(has_left and len(self._before) >= 2 * _LONG and self._fall(_LONG) < _SLOW)

    def _fall(self, steps: int) -> float:
        """Returns how far the logarithm has fallen in so many steps, from mean to mean."""
        earlier, lately = self._before[-2 * steps : -steps], self._before[-steps:]
        return float(np.mean(earlier) - np.mean(lately))

    def of_each_size(self, objective: Objective) -> list[Objective]:
        """Returns a sample of each size that may come, the last with all examples.

        Whoever measures steps compiles them with these ahead.
        """
        share, random, samples = self.share, self._random, []
        self._random = np.random.default_rng(0)
        while not self.is_whole:
            samples.append(self.draw(objective))
            self.share *= _GROWTH
        self.share, self._random = share, random
        return [*samples, objective]

    def _counts(self) -> list[int]:
        """Returns how many examples of each term the next sample has."""
        wanted = [max(self._fewest, round(self.share * size)) for size in self._sizes]
        return [min(count, size) for count, size in zip(wanted, self._sizes, strict=True)]


@contextlib.contextmanager
def of_several_sizes() -> Iterator[None]:
    """Lets steps be compiled for some sizes of a batch, as samples grow, without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "A step is compiled for the third shape")
        yield


def _value(objective: Objective, parameters: Any) -> tf.Tensor:
    loss = objective.data_loss(parameters)
    if objective.regularizer is not None:
        loss += objective.regularizer.value(parameters)
    return loss


def _logarithm(loss: float) -> float:
    """Returns ln of a loss within bounds."""
    if not loss > 0:
        return -_LARGEST
    return min(max(math.log(loss), -_LARGEST), _LARGEST) if math.isfinite(loss) else _LARGEST
