"""The deep autoencoders: their images, units, initial weights and score."""

import numpy as np
import pytest
import tensorflow as tf

import mlhf
from train_val import task_families
from train_val.task_families import autoencoders


def test_curves_are_strokes_through_their_points():
    images = autoencoders.curve_images(40, seed=3).reshape(40, 28, 28)
    random = np.random.default_rng(3)
    points = random.uniform(3, 24, (3, 40, 1, 2))[:, :, 0]
    for of_points in points:
        nearest = np.rint(of_points).astype(int)
        ink = images[np.arange(40), nearest[:, 0], nearest[:, 1]]
        # The pixel next to a point is at most √½ from it.
        assert (ink > 1.6 - 0.5**0.5 - 0.1).all()
    assert images.min() == 0 and images.max() == 1 and 0.02 < images.mean() < 0.2
    # Nothing but a stroke about three pixels wide: far fewer pixels than the square has.
    assert (np.count_nonzero(images, axis=(1, 2)) < 200).all()
    np.testing.assert_array_equal(autoencoders.curve_images(5, seed=3).shape, (5, 784))
    assert (autoencoders.curve_images(5, 3) != autoencoders.curve_images(5, 4)).any()


def test_the_network_is_the_papers():
    task = autoencoders.curves(examples=4)
    model = task.build(5)
    units = [784, 400, 200, 100, 50, 25, 6, 25, 50, 100, 200, 400, 784]
    assert [tuple(kernel.shape) for kernel in model.trainable_variables[::2]] == list(
        zip(units[:-1], units[1:], strict=True)
    )
    activations = [layer.activation.__name__ for layer in model.layers]
    assert activations == ["sigmoid"] * 5 + ["linear"] + ["sigmoid"] * 5 + ["linear"]
    for kernel, bias in zip(*(model.trainable_variables[k::2] for k in (0, 1)), strict=True):
        assert (np.count_nonzero(kernel, 0) == min(15, kernel.shape[0])).all()
        assert not np.any(bias)
    same, other = task.build(5), task.build(6)
    for a, b, c in zip(*(m.trainable_variables[::2] for m in (model, same, other)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.any(np.array(a) != np.array(c))


def test_an_autoencoder_learns_and_reports_its_squared_error():
    problem = task_families.make("curves:examples=64:shrink=8:batch_size=64")
    assert problem.measured == "test squared error"
    start = problem.task.initialize(1)
    inputs, targets = problem.test.taken(range(32))
    np.testing.assert_array_equal(inputs, targets)
    model = problem.model
    for variable in model.trainable_variables:
        variable.assign(start[variable.path])
    expected = np.mean(np.sum((1 / (1 + np.exp(-model(inputs))) - targets) ** 2, 1))
    assert problem.accuracy(start) == pytest.approx(expected, rel=1e-5)
    batch = mlhf.Objective(model, problem.task.loss, *next(iter(problem.task.batches(0))))
    found = mlhf.minimize(batch, start, "martens", steps=8, progress=False)
    assert problem.accuracy(found.parameters) < 0.8 * expected


@pytest.mark.data
def test_the_digits_are_all_of_them(data_dir):
    task = autoencoders.mnist_autoencoder(str(data_dir), shrink=50)
    assert task.train[0].shape == (60_000, 784) and task.test[0].shape == (10_000, 784)
    assert task.train[0].min() == 0 and task.train[0].max() == 1
    assert tf.nest.map_structure(lambda kernel: kernel.shape[1], task.build(0).get_weights()[::2])[
        :4
    ] == [20, 10, 5, 1]
