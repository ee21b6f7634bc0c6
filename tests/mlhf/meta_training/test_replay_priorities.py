"""The priorities of snapshots, by numbers."""

import math

import pytest

from mlhf.meta_training.replay_priorities import is_worth_keeping, priority


def test_a_priority_is_exp_of_the_mean_meta_loss_within_bounds():
    assert priority([0.5, -1.0, 2.0]) == pytest.approx(math.exp(0.5))
    assert priority([60.0]) == math.exp(50)
    assert priority([-60.0]) == math.exp(-50)


@pytest.mark.parametrize(
    "loss, norm, kept", [(0.9, 2.3, True), (1.0, 2.3, False), (0.9, 2.4, False)]
)
def test_what_is_kept_is_better_and_has_not_grown_out_of_proportion(loss, norm, kept):
    assert is_worth_keeping(loss, norm, best_loss=1.0, best_norm=2.0) is kept
