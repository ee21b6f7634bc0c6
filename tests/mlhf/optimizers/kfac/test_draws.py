"""What K-FAC draws at several outputs: its second moments are the Hessian of the weighted sum."""

import numpy as np
import pytest
import tensorflow as tf

import mlhf
from custom_op import losses
from mlhf.objective.joint_loss import JointLoss, Part, beside
from mlhf.objective.shares import Share
from mlhf.optimizers.kfac.draws import drawn_at

B = 5
_random = np.random.default_rng(3)
Z = [_random.normal(size=shape) for shape in ((B, 3), (B, 2), (B, 4, 1))]
TARGETS = [
    np.array([0, 2, 1, 1, 0], np.int32),
    _random.normal(size=(B, 2)),
    _random.integers(0, 2, (B, 4, 1)).astype(float),
]
LOSSES = [losses.SoftmaxCrossEntropy(), losses.MeanSquaredError(), losses.SigmoidCrossEntropy()]
OUTPUT_WEIGHTS = [1.0, 0.3, 2.5]
WEIGHTS = [None, _random.uniform(0.2, 2, B), _random.uniform(0.2, 2, B)]
MASKS = [np.array([1, 0, 1, 1, 0], bool), None, None]


def joint(is_weighted):
    weights, masks = (WEIGHTS, MASKS) if is_weighted else ([None] * 3, [None] * 3)
    shapes = [[None if a is None else a.shape[1:] for a in some] for some in (weights, masks)]
    specs = [tf.TensorSpec(y.shape[1:], tf.as_dtype(y.dtype)) for y in TARGETS]
    parts = zip(LOSSES, OUTPUT_WEIGHTS, [z.shape[1:] for z in Z], specs, *shapes, strict=True)
    loss = JointLoss([Part(*part) for part in parts])
    z = tf.Variable(beside(Z, tf.float64)).value()
    some = {}
    if is_weighted:
        some = {"weights": beside(weights, tf.float64), "mask": beside(masks, tf.bool)}
    targets = beside(TARGETS, tf.float64)
    objective = mlhf.Objective(lambda w, x: w, loss, tf.zeros([B, 1]), targets, **some)
    return objective, z


def hessian(objective, z):
    """Returns B times the Hessian of each example, [B, N, N]."""
    mask, weights = objective.mask, objective.weights
    some = {"weights": weights, "mask": mask} if mask is not None else {}
    evaluation = objective.loss.evaluate(z, objective.targets, **some)
    units = tf.eye(z.shape[1], dtype=z.dtype)
    columns = [evaluation.hessian_product(tf.tile(u[None], [B, 1])) for u in units]
    return B * tf.stack(columns, 2).numpy()


def drawn(objective, z, fisher, seed=(1, 2)):
    return drawn_at(Share(objective, 0, 1), z, fisher, tf.convert_to_tensor(seed))


@pytest.mark.parametrize("is_weighted", [False, True])
def test_exact_columns_make_the_hessian(is_weighted):
    objective, z = joint(is_weighted)
    got = drawn(objective, z, "exact")
    assert len(got.gradients) == 3 + 2 + 4 and got.terms == B
    moments = sum(np.einsum("bi,bj->bij", u, u) for u in got.gradients)
    np.testing.assert_allclose(moments, hessian(objective, z), rtol=1e-9, atol=1e-12)
    assert np.abs(moments[:, 3:5, 5:]).max() == 0


@pytest.mark.parametrize("is_weighted", [False, True])
def test_drawn_targets_make_it_on_average(is_weighted):
    objective, z = joint(is_weighted)
    sample = tf.function(
        lambda seed: drawn(objective, z, "sampled", seed).gradients[0], autograph=False
    )
    draws = np.array([sample(tf.constant([7, k])) for k in range(4000)])
    moments = np.einsum("kbi,kbj->bij", draws, draws) / len(draws)
    expected = hessian(objective, z)
    np.testing.assert_allclose(moments, expected, atol=0.06 * expected.max())
    # Two outputs of one kind would otherwise be drawn alike.
    assert np.abs(moments[:, 3:5, 5:]).max() < 0.06 * expected.max()


def test_examples_count_by_their_weights():
    objective, z = joint(True)
    got = drawn(objective, z, "exact").weights
    of_losses = [np.ones(B), WEIGHTS[1], WEIGHTS[2]]
    np.testing.assert_allclose(got, np.average(of_losses, axis=0, weights=OUTPUT_WEIGHTS))
    assert drawn(*joint(False), "exact").weights is None


def test_a_negative_weight_of_a_loss_is_refused():
    objective, z = joint(False)
    parts = [part._replace(weight=part.weight - 0.8) for part in objective.loss.parts]
    objective.loss.parts = parts
    with pytest.raises(ValueError, match=r"at least 0, got \[-0.5\]: .*HessianFree"):
        drawn(objective, z, "sampled")
