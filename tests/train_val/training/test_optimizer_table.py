"""The table of optimizers: one row, and every command line knows the name."""

import subprocess
import sys

import keras
import pytest

from train_val.cli.specification_checks import check_optimizers
from train_val.comparison import NAMES, parse
from train_val.training import optimizer_table, optimizers

ADDED = """
from train_val.training import optimizer_table as t

row = t.Known("second_sgd", "Second SGD", "keras.optimizers.SGD", {"lr": "learning_rate"},
              grid={"learning_rate": (0.1, 0.2)}, rate=0.125)
t.TABLE += (row,)
t.__dict__.update(TRAINING=(*t.TRAINING, row.name), COMPARED=(*t.COMPARED, row.name))
t._BY_NAME[row.name] = row
import sys
from absl import flags
from train_val.cli.flags import comparison_flags, use_flags
from train_val.cli.specification_checks import check_optimizers

check_optimizers("second_sgd:lr=0.1", None)
use_flags.define_flags()
assert "second_sgd" in flags.FLAGS["optimizer"].parser.enum_values
assert not {"tensorflow", "keras"} & set(sys.modules)
from train_val.comparison import parse
from train_val.training import optimizers

assert optimizers.make("second_sgd").optimizer.learning_rate == 0.125
assert parse("second_sgd").axes == {"learning_rate": (0.1, 0.2)}
assert parse("second_sgd:lr=0.5").make({}).learning_rate == 0.5
"""


def test_a_row_is_all_that_a_new_optimizer_needs():
    done = subprocess.run([sys.executable, "-c", ADDED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_names_are_found_in_any_case_and_once():
    names = [known.name.lower() for known in optimizer_table.TABLE]
    assert len(set(names)) == len(names)
    assert optimizer_table.find("rmsPROP").name == "RMSprop"
    assert optimizer_table.find("moon") is None
    # Another version of Keras may lack some.
    assert set(optimizers.NAMES) <= set(optimizer_table.TRAINING)
    assert set(NAMES) <= set(optimizer_table.COMPARED)


@pytest.mark.parametrize("name", NAMES)
def test_a_specification_makes_what_the_table_says(name):
    known = optimizer_table.find(name)
    text = f"{name}:path=convnet" if name == "meta" else name
    check_optimizers(text, None)
    entrant = parse(text)
    setting = {key: values[0] for key, values in entrant.axes.items()}
    made = entrant.make(setting)
    kind = type(getattr(made, "_optimizer", made)) if known.of_keras else type(made)
    assert issubclass(kind, known.load() if known.of_keras else object)
    assert known.of_keras == issubclass(kind, keras.optimizers.Optimizer)
    assert entrant.title.startswith(known.title)


def test_plain_hessian_free_is_no_flag_of_its_own():
    assert {"hf", "hf_lm", "untrained"} & set(optimizer_table.TRAINING) == set()
