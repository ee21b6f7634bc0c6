import numpy as np
import pytest

from train_val import task_families


@pytest.mark.parametrize("family", ["convnet", "residual", "resnet"])
def test_images_are_shrunk_by_means(family):
    shrunk = task_families.make(f"{family}:width=2:shrink=2", seed=0).model
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)
    means = images.reshape(3, 4, 2, 4, 2, 1).mean((2, 4))
    np.testing.assert_allclose(shrunk.get_layer("shrunk")(images), means, rtol=1e-5, atol=1e-6)
    # What comes after it sees nothing of the images but their means.
    swapped = images.reshape(3, 4, 2, 4, 2, 1)[:, :, ::-1].reshape(images.shape)
    np.testing.assert_allclose(shrunk(images), shrunk(swapped), rtol=1e-4, atol=1e-5)


def test_widths_of_the_resnet():
    model = task_families.make("resnet:width=3:size=14").model
    kernels = [v.shape for v in model.trainable_variables if len(v.shape) == 4]
    assert {shape[-1] for shape in kernels} == {3, 6, 12} and len(kernels) == 1 + 6 * 2 + 3


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("mlp:width=6:batch_size=16", marks=pytest.mark.slow),
        pytest.param("convnet:width=3:dense=8:batch_size=16", marks=pytest.mark.slow),
        pytest.param("residual:width=3:batch_size=16", marks=pytest.mark.slow),
        pytest.param("resnet:width=2:shrink=2:batch_size=16", marks=pytest.mark.slow),
        pytest.param("mlp:width=6:depth=3:activation=gelu:batch_size=16", marks=pytest.mark.slow),
    ],
)
def test_the_families_pass_their_own_smoke_test(text):
    task_families.smoke_test(task_families.make(text))
