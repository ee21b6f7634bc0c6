import pytest

from tests.train_val.commands import DIGITS, run
from train_val import train_meta_optimizer

META_FLAGS = (
    *DIGITS,
    "--meta_roll_back=3",
    "--CG_iter=3",
    "--meta_lr=1e-2",
    "--keep_prob=0.5",
    "--max_steps=16",
    "--save_steps=3",
    "--seed=5",
)


@pytest.fixture(scope="session")
def meta_flags():
    """A small meta-training's flags."""
    return META_FLAGS


@pytest.fixture(scope="session")
def meta_folder(tmp_path_factory):
    """The folder of that meta-training, uninterrupted."""
    folder = tmp_path_factory.mktemp("meta") / "run"
    run(train_meta_optimizer, *META_FLAGS, f"--model_dir={folder}")
    return folder
