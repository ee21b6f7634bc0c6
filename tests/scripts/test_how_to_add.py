"""What CONTRIBUTING.md says about adding: three are added to a copy, the files counted."""

import shutil
import subprocess
import sys

from tests.project import ROOT

RULE = '''

@register_r_forward("Dawsn")
def dawson(op):
    """R(D(x)) = (1 - 2 x D(x)) R(x)."""
    slope = 1 - 2 * op.inputs[0] * op.outputs[0]
    return lambda t: slope * t
'''
OPTIMIZER = '''"""Steps along the sign of the gradient."""

import tensorflow as tf

from mlhf.optimizers.settings import Number
from mlhf.optimizers.step import CompiledSteps


class SignDescent(CompiledSteps):
    """w ← w - lr sign(g)."""

    learning_rate = Number(above=0)

    def __init__(self, learning_rate=0.01, *, jit_compile=False):
        super().__init__(jit_compile)
        self.learning_rate = learning_rate

    def init(self, parameters):
        return ()

    def _state_like(self, parameters):
        return ()

    def step(self, objective, parameters, state):
        return self._take(objective, parameters, state)

    def _step(self, objective, parameters, state, numbers):
        linearized = objective.linearize(parameters)
        moved = tf.nest.map_structure(
            lambda w, g: w - numbers["learning_rate"] * tf.sign(g),
            parameters,
            linearized.gradient(),
        )
        return moved, state, linearized.model_state, {"loss": linearized.value}
'''
ROW = """    Known(
        "sign",
        "sign descent",
        "mlhf.optimizers.sign_descent.SignDescent",
        grid={"learning_rate": (1e-3, 1e-2)},
        rate=0.01,
    ),
"""
NETWORK = '''

def linear(shape, classes, *, seed=0, dtype="float32"):
    """Returns a linear network."""
    return _perceptron("linear", shape, ((classes, None, "output"),), seed, dtype)
'''


def add_a_rule(tree):
    """An op's rule: one file."""
    path = tree / "custom_op" / "rules" / "elementwise.py"
    path.write_text(path.read_text() + RULE)
    return [path], "import custom_op; assert 'Dawsn' in custom_op.supported_ops()"


def add_an_optimizer(tree):
    """An optimizer: its file, and a row of the table that all commands read."""
    own = tree / "mlhf" / "optimizers" / "sign_descent.py"
    own.write_text(OPTIMIZER)
    table = tree / "train_val" / "training" / "optimizer_table.py"
    text = table.read_text()
    assert "TABLE = (\n" in text
    table.write_text(text.replace("TABLE = (\n", "TABLE = (\n" + ROW, 1))
    check = (
        "from train_val.problems import image_problems as p; from train_val import comparison as c;"
        "task = p.make('mlp', 'digits', batch_size=64).task;"
        "entrant, = c.parse_all('sign:lr=0.01');"
        "optimizer = entrant.make({});"
        "w = task.initialize(0); s = optimizer.init(w);"
        "before, after = (optimizer.step(task.objective(*next(iter(task.batches(0)))), w, s)"
        " for _ in range(2)); assert 'loss' in before.metrics"
    )
    return [own, table], check


def add_a_network(tree):
    """A network: its function, and a row of the table."""
    own = tree / "train_val" / "networks" / "convnets.py"
    own.write_text(own.read_text() + NETWORK)
    table = tree / "train_val" / "networks" / "network_table.py"
    text = table.read_text()
    row = '    Known("linear", f"{_PAPER}.linear", True),\n'
    assert "TABLE = (\n" in text
    table.write_text(text.replace("TABLE = (\n", "TABLE = (\n" + row, 1))
    check = (
        "from train_val.problems import image_problems as p;"
        "assert p.make('linear', 'digits', batch_size=64).model.count_params() == 650"
    )
    return [own, table], check


def test_adding_takes_one_or_two_files(tmp_path):
    for package in ("custom_op", "mlhf", "replay", "train_val"):
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    checks = []
    for add, most in ((add_a_rule, 1), (add_an_optimizer, 2), (add_a_network, 2)):
        touched, check = add(tmp_path)
        assert len(touched) <= most, add.__doc__
        checks.append(check)
    # One process: most of its time goes into the import of TensorFlow.
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(checks)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
