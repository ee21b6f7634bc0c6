"""Problems whose runs are known by hand."""

from types import SimpleNamespace

import mlhf
from train_val.comparison import Curve, Entrant, Score, Tuning


class Halving:
    """An optimizer that multiplies the weight by a factor; a rate of 9 makes it infinite."""

    def __init__(self, rate):
        self.rate = rate

    def init(self, parameters):
        return 0

    def step(self, objective, weight, state):
        return mlhf.Step(weight * self.rate, state + 1, None, {"loss": weight})


def problem(name="by hand"):
    """A weight that starts at 100 + seed; its loss is itself, its accuracy what it lost."""
    task = SimpleNamespace(
        name=name,
        initialize=lambda seed: 100.0 + seed,
        initial_model_state=lambda: (),
        batches=lambda start: iter([(k, k) for k in range(start, start + 1000)]),
        objective=lambda inputs, targets, model_state: inputs,
    )
    return SimpleNamespace(
        task=task,
        normalised=False,
        population_state=lambda weight, state: state,
        training_loss=lambda weight, state: weight if weight < 1e4 else float("nan"),
        accuracy=lambda weight, state: 1 - weight / 200,
    )


def entrant(title, rates, make=Halving, optimizer=None):
    """An entrant of which the rate is tuned."""
    axes = {"learning_rate": tuple(rates)} if len(rates) > 1 else {}
    return Entrant(
        title,
        title,
        axes,
        {},
        {"optimizer": optimizer or title.lower()},
        lambda setting: make(setting.get("learning_rate", rates[0])),
    )


def score(title, *losses, seconds=None, optimizer=None, inside=True, diverged_at=None):
    """A score of one curve or more, measured at each step."""
    curves = [
        Curve(
            list(range(len(one))),
            list(one),
            list(seconds or [0.5 * k for k in range(len(one))]),
            [1 - loss for loss in one],
            diverged_at,
        )
        for one in losses
    ]
    who = entrant(title, (0.1, 0.3), optimizer=optimizer)
    tuning = Tuning({"learning_rate": 0.3}, [({"learning_rate": 0.3}, 1.0)], inside)
    return Score(who, tuning, curves)
