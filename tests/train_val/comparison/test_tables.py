import dataclasses

import numpy as np

import mlhf
from tests.train_val.comparison.problems import entrant
from train_val.comparison import Curve, Score, Tuning, least_loss, table, weights_digest

RATE = {"learning_rate": 0.1}


def test_weights_have_names_of_their_own():
    def digest(seed):
        optimizer = mlhf.MetaHessianFree(1.0, seed=seed)
        optimizer.init({"dense/kernel": np.ones([2, 2], np.float32)})
        return weights_digest(optimizer.weights)

    assert digest(1) == digest(1) != digest(2) and len(digest(1)) == 16


def test_what_diverged_is_called_so_in_the_table():
    nan = float("nan")
    lived = Curve([0, 2, 4], [8.0, 4.0, 2.0], [0.0, 1.0, 2.0])
    died = Curve([0, 2, 4], [8.0, 4.0, nan], [0.0, 1.0, nan], diverged_at=3)
    # The seconds are those of the median run, of which one that diverged is the slowest.
    tuning = Tuning(RATE, [(RATE, 1.0)], True)
    scores = [
        Score(entrant("Most", (0.1, 0.3)), tuning, [lived, died, lived]),
        Score(entrant("Few", (0.1, 0.3)), tuning, [died, died, lived]),
    ]
    most, few = table(scores, (2, 4)).splitlines()[2:]
    assert most == "| Most | lr 0.1 | 4 | diverged | 2.00 |"
    assert few == "| Few | lr 0.1 | 4 | diverged | diverged |"


def test_the_table_says_what_was_not_tuned_and_what_lies_at_the_edge():
    curve = Curve([0, 2], [8.0, 4.0], [0.0, 1.0])
    alone = Score(entrant("Alone", (0.1,)), Tuning({}, [], True), [curve])
    edge = Score(entrant("Edge", (0.1, 0.3)), Tuning(RATE, [(RATE, 1.0)], False), [curve])
    assert table([alone, edge], (2,)).splitlines()[2:] == [
        "| Alone | not tuned | 4 | 1.00 |",
        "| Edge | lr 0.1 (edge) | 4 | 1.00 |",
    ]


def test_the_least_loss_of_a_step_is_over_the_settings_that_ran_the_seeds():
    early, late = (
        [Curve([0, 2, 4], [8.0, a + seed, b], [0.0] * 3) for seed in (0, 2)]
        for a, b in ((1.0, 3.0), (4.0, 0.5))
    )
    score = Score(entrant("Both", (0.1, 0.3)), Tuning(RATE, [], True), late)
    assert [least_loss(score, step) for step in (2, 4)] == [5.0, 0.5]
    score = dataclasses.replace(score, over_grid=[early, late])
    assert [least_loss(score, step) for step in (2, 4)] == [2.0, 0.5]
