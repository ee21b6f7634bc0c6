import pytest

from train_val import data as image_data


@pytest.mark.parametrize(
    "name, options, found",
    [
        ("cifar100", dict(part="train"), "cifar10, digits, mnist, imagenet"),
        ("digits", dict(part="validation"), "meta_train, train, test"),
        ("cifar10", dict(part="train", split="mine"), "original, standard"),
        ("digits", dict(part="train", split="standard"), "CIFAR-10's only"),
    ],
)
def test_unknown_names(name, options, found):
    with pytest.raises(ValueError, match=found):
        image_data.load(name, **options)
