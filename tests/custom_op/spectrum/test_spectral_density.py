import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import custom_op
from tests.custom_op import cases
from tests.custom_op.matrix_operator import MatrixOperator


@pytest.fixture(scope="module")
def hessian():
    case = cases.CASES["mlp_sigmoid"]
    return custom_op.hessian(case.network, case.tensors(), case.loss, case.targets)


@pytest.fixture(scope="module")
def density(hessian):
    return custom_op.spectral_density(hessian, probes=6, steps=40, seed=3)


def test_each_probe_is_a_gauss_quadrature(hessian, density):
    """All P steps make it exact: Σ w f(θ) = <v, f(A) v> for the probe's unit vector v."""
    dense = cases.hessian("mlp_sigmoid")
    size = len(dense)
    assert density.nodes.shape == (6, size)
    np.testing.assert_allclose(density.weights.sum(1), 1, rtol=1e-12)
    random = np.random.default_rng(3)
    few = custom_op.spectral_density(hessian, probes=6, steps=4, seed=3)
    for probe in range(6):
        v = random.standard_normal(size)
        v /= np.linalg.norm(v)
        for power in range(1, 8):
            expected = v @ np.linalg.matrix_power(dense, power) @ v
            for found in (density, few):
                got = np.sum(found.weights[probe] * found.nodes[probe] ** power)
                # n steps are exact up to the power 2n - 1.
                np.testing.assert_allclose(got, expected, atol=1e-9)


def test_means_are_within_their_error(density):
    values = np.linalg.eigvalsh(cases.hessian("mlp_sigmoid"))
    for function in (lambda x: x, np.square, np.exp):
        found = density.mean(function)
        assert 0 < found.standard_error < 0.5 * np.abs(function(values)).mean() + 0.1
        assert abs(found.value - function(values).mean()) < 5 * found.standard_error


def test_the_density_is_that_of_the_eigenvalues():
    random = np.random.default_rng(4)
    values = np.concatenate([np.zeros(150), random.normal(3, 0.2, 45), [8.0, -2, 5, 6, 7]])
    basis = np.linalg.qr(random.normal(size=(200, 200)))[0]
    found = custom_op.spectral_density(
        MatrixOperator((basis * values) @ basis.T), probes=30, steps=40
    )
    width, grid = 0.2, np.linspace(-4, 10, 500)
    gaussians = np.exp(-0.5 * ((grid[:, None] - values) / width) ** 2)
    expected = gaussians.mean(1) / (width * np.sqrt(2 * np.pi))
    density = found.density(grid, width)
    np.testing.assert_allclose(
        np.trapezoid(density, grid) if hasattr(np, "trapezoid") else np.trapz(density, grid),
        1,
        rtol=1e-6,
    )
    assert np.abs(density - expected).max() < 0.08 * expected.max()
    # The lone eigenvalues, each 1/200 of all, stand at their places.
    for value in (-2.0, 8.0):
        near = np.abs(found.nodes - value) < 1e-6
        assert near.any(1).all()
        assert 0.25 < (found.weights * near).sum(1).mean() * 200 < 2.5


def test_an_invariant_subspace_ends_the_iteration():
    operator = MatrixOperator(np.diag([2.0] * 10 + [3.0] * 10), tf.float32)
    found = custom_op.spectral_density(operator, probes=2, steps=15)
    assert operator.products <= 6
    np.testing.assert_allclose(found.weights.sum(1), 1, rtol=1e-6)
    assert 2 < found.mean(lambda x: x).value < 3
    np.testing.assert_allclose(found.mean(lambda x: (x - 2) * (x - 3)).value, 0, atol=1e-4)
    one = custom_op.spectral_density(MatrixOperator(np.zeros((3, 3))), probes=1)
    assert one.mean(lambda x: x).value == 0 and np.isnan(one.mean(lambda x: x).standard_error)


def test_plot(density, tmp_path):
    figure = density.plot(tmp_path / "density.png", title="Hessian")
    (axes,) = figure.axes
    assert axes.get_xlabel() == "eigenvalue" and axes.get_yscale() == "log"
    line = axes.lines[0]
    x, y = line.get_data()
    np.testing.assert_allclose(y, np.maximum(density.density(x), y.min()), rtol=1e-12)
    low, high = axes.get_ylim()
    assert low <= y.min() and high > y.max()
    picture = np.asarray(Image.open(tmp_path / "density.png").convert("L"))
    assert picture.std() > 5


def test_wrong_arguments_say_expected_and_got(density):
    with pytest.raises(ValueError, match="1 probe and 1 step, got 0 and 64"):
        custom_op.spectral_density(MatrixOperator(np.eye(3)), probes=0)
    with pytest.raises(ValueError, match="positive width, got 0"):
        density.density(np.zeros(2), 0)
