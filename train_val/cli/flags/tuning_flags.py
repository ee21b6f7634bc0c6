"""The flags of `tune_hyperparameters.py`."""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from replay.numbers import check_number
from train_val.cli import names
from train_val.cli.definitions import choice, number, switch, text, whole, words
from train_val.cli.exit_statuses import UsageError
from train_val.networks import network_table

FLAGS = flags.FLAGS

_WHAT, _LONG, _HYPER, _METHOD = (
    "What is trained",
    "Length and reports",
    "Hyperparameters",
    "The method",
)
_FILES = "Files"
# The methods that a flag is for.
OF_METHOD = {
    "truncation": ("truncated", "rtho"),
    "online": ("truncated",),
    "points": ("drmad",),
    "solver": ("implicit",),
    "damping": ("implicit",),
    "storage": ("reverse",),
}


def define_flags() -> None:
    """Defines the flags."""
    choice("problem", "mlp", network_table.TUNED, "The network.", _WHAT, case_sensitive=False)
    choice("data", "mnist", names.TUNED_DATA, "The data set.", _WHAT)
    text(
        "data_dir",
        None,
        "The folder with the data set's files; README says which.",
        _WHAT,
        shown="tensorflow-datasets downloads",
    )
    whole("train_examples", 10_000, "The most images to train on.", _WHAT)
    whole(
        "valid_examples",
        None,
        "The most images to validate on.",
        _WHAT,
        shown="5,000; 1,000 for the convnet",
    )
    whole("batch_size", 128, "Examples per batch; all of them if there are fewer.", _WHAT)
    choice("dynamics", "momentum", names.DYNAMICS, "How the network is trained.", _WHAT)
    number(
        "lr",
        None,
        "The learning rate; its initial value if it is learned.",
        _WHAT,
        above=0,
        shown="0.1; 0.001 for --dynamics=adam",
    )
    number(
        "momentum",
        0.9,
        "The momentum (β₁ for --dynamics=adam); its initial value if it is learned.",
        _WHAT,
        at_least=0,
        below=1,
    )
    whole("steps", 100, "Steps per training.", _LONG)
    whole("max_steps", 20, "Steps of the outer optimizer, each a whole training.", _LONG)
    _define_hyperparameters()
    _define_method()
    text(
        "model_dir",
        None,
        "The folder for checkpoints, records and pictures; an earlier run there is continued.",
        _FILES,
        shown="./tune_PROBLEM_METHOD",
    )
    whole(
        "seed",
        0,
        "The seed of the weights and batches of the first training.",
        "Other",
        at_least=0,
        at_most=2**20,
    )


def _define_hyperparameters() -> None:
    words(
        "hyperparameters",
        None,
        "What is learned: learning_rate, momentum (or beta1, beta2 with --dynamics=adam), l1, l2, "
        "log_l2, example_weights, labels, images, initial_weights, initial_scale. With :step, "
        ":layer, :step+layer or :weight there is a value for each of these, as in "
        "learning_rate:step+layer,l2:layer.",
        _HYPER,
        shown="the numbers of the dynamics and l2; l2 alone for --method=implicit",
    )
    words(
        "start",
        [],
        "Initial values other than the usual ones, such as l2=1e-3.",
        _HYPER,
        shown="the usual ones",
    )
    choice(
        "outer_optimizer",
        "adam",
        names.OUTER_OPTIMIZERS,
        "The optimizer that updates the hyperparameters.",
        _HYPER,
        case_sensitive=False,
    )
    words(
        "outer_lr",
        [],
        "The learning rate of --outer_optimizer, for all hyperparameters (0.01) or by name "
        "(0.01,l2=1e-5).",
        _HYPER,
        shown="what suits Adam: a tenth of the initial value for learning rates and penalties, "
        "else 0.01 to 0.2",
    )
    words(
        "projection",
        [],
        "The set that a hyperparameter is kept in, as name=box:LOW:HIGH, name=simplex:TOTAL, "
        "name=capped_simplex:TOTAL or name=none, such as example_weights=capped_simplex:500.",
        _HYPER,
        shown="penalties at least 0, weights of examples in [0, 1], labels on the simplex",
    )
    choice(
        "sharing",
        None,
        names.SHARINGS,
        "Which weights share one gradient.",
        _HYPER,
        only="hyperparameters with a value for every weight, such as l2:weight",
    )
    switch("sign", False, "Use only the sign of the shared gradient.", _HYPER, only="--sharing")


def _define_method() -> None:
    choice(
        "method",
        "reverse",
        names.METHODS,
        "How the hypergradient is computed; docs/hypergradients.md helps to choose.",
        _METHOD,
    )
    whole(
        "truncation",
        100,
        "For truncated, the number of last steps that are differentiated; for rtho, the steps "
        "between two updates of the hyperparameters.",
        _METHOD,
        only="--method=truncated and rtho",
    )
    switch(
        "online",
        False,
        "Update the hyperparameters during training, after every --truncation steps.",
        _METHOD,
        only="--method=truncated",
    )
    whole(
        "points",
        None,
        "The number of points on the line between the first and the last weights.",
        _METHOD,
        only="--method=drmad",
        shown="a tenth of --steps",
    )
    choice(
        "solver",
        "gauss_newton",
        names.SOLVERS,
        "The linear solver.",
        _METHOD,
        only="--method=implicit",
    )
    number(
        "damping",
        1e-2,
        "The number added to the diagonal of the linear system.",
        _METHOD,
        only="--method=implicit",
        at_least=0,
        shown="0.01; 0 for solvers of the Hessian itself",
    )
    choice(
        "storage",
        "memory",
        names.STORAGES,
        "Where the states of the training are kept.",
        _METHOD,
        only="--method=reverse",
    )
    switch(
        "estimate",
        False,
        "Before the first step, print what each method would cost.",
        _METHOD,
    )


def numbers(
    flag: str, texts: Sequence[str], alone: bool = False, **bounds: float
) -> dict[str, float]:
    """Reads words such as `name=number`; a number alone, if allowed, gets the name "".

    Args:
      flag: The flag's name.
      texts: The flag's words.
      alone: Whether a number alone is allowed; it is for all names.
      **bounds: Bounds as for `replay.numbers.check_number`.

    Returns:
      The numbers by name.

    Raises:
      UsageError: If a word has another form, or its number is out of bounds.
    """
    by_name: dict[str, float] = {}
    for word in texts:
        name, equals, value = word.rpartition("=")
        try:
            read = float(value if equals or alone else "")
        except ValueError:
            asked = "a number or name=number" if alone else "name=number"
            raise UsageError(f"Expected {flag} as {asked}, got {word!r}.") from None
        try:
            what = f"{flag} of {name.strip()}" if name else flag
            by_name[name.strip()] = check_number(what, read, **bounds)
        except ValueError as error:
            raise UsageError(str(error)) from None
    return by_name


def check_flags() -> None:
    """Refuses flags that the method has no use for, and numbers that make no sense.

    Raises:
      UsageError: If there are any; the text names the flag.
    """
    for flag, methods in OF_METHOD.items():
        if FLAGS[flag].present and FLAGS.method not in methods:
            raise UsageError(
                f"Expected {flag} with method={' or '.join(methods)} only, got it with "
                f"method={FLAGS.method}."
            )
    if FLAGS.sign and FLAGS.sharing is None:
        raise UsageError("Expected sign together with sharing, got no sharing; take all or units.")
    numbers("start", FLAGS.start)
    numbers("outer_lr", FLAGS.outer_lr, alone=True, at_least=0)
    for word in FLAGS.projection:
        for value in word.partition("=")[2].split(":")[1:]:
            if value.strip().lower() in ("nan", "-nan", "+nan"):
                raise UsageError(f"Expected numbers in projection={word}, got {value}.")
