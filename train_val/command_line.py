"""What the command lines share: flags, and errors as one sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from absl import app, flags

from mlhf.checkpoints import CheckpointError
from train_val import problems
from train_val.data import NAMES, SPLITS, DataError

FLAGS = flags.FLAGS

EXPECTED_ERRORS = (CheckpointError, DataError, OSError, ValueError)


def define_common_flags(seed: int = 0) -> None:
    """Defines the flags of meta-training and evaluation, with the original's defaults.

    Args:
      seed: The default of `--seed`.
    """
    flags.DEFINE_string("data_dir", None, "Where the data set's files are; downloads if left out.")
    flags.DEFINE_string("model_dir", None, "Where checkpoints and metrics go.")
    flags.DEFINE_enum(
        "problem", "convnet", sorted(problems.NETWORKS), "The network.", case_sensitive=False
    )
    flags.DEFINE_enum("data", "cifar10", NAMES, "The data set.")
    flags.DEFINE_enum("split", "original", SPLITS, "How the data set is parted.")
    flags.DEFINE_enum(
        "data_format", "auto", ("auto", "channels_first", "channels_last"), "The axes of images."
    )
    flags.DEFINE_integer("resnet_size", 32, "The depth of a ResNet; other networks ignore it.")
    flags.DEFINE_integer("batch_size", 128, "Examples in a batch.", lower_bound=1)
    flags.DEFINE_integer("train_epochs", 250, "Epochs to train for.", lower_bound=1)
    flags.DEFINE_integer(
        "max_steps", None, "Steps to stop at, before the epochs end.", lower_bound=1
    )
    flags.DEFINE_integer("epochs_per_eval", 10, "Epochs between evaluations.", lower_bound=1)
    flags.DEFINE_integer("save_steps", 1000, "Steps between checkpoints.", lower_bound=1)
    flags.DEFINE_integer("seed", seed, "Of weights, batches and noise.", lower_bound=0)
    flags.DEFINE_float("weight_decay", 0.0, "c of c/2 times the squared weights.", lower_bound=0)
    flags.DEFINE_float("lr", 1.0, "The learning rate; of the rollouts in meta-training.")
    flags.DEFINE_integer("CG_iter", 2, "Conjugate-gradient iterations a step.", lower_bound=1)
    flags.DEFINE_enum("x_use", "x", ("x", "d", "rnn"), "Where conjugate gradients start.")
    flags.DEFINE_enum("y_use", "rnn", ("rnn", "none"), "The preconditioner.")
    flags.DEFINE_enum("d_use", "rnn", ("rnn", "none"), "The damping.")
    flags.DEFINE_float("damping", 2e-5, "The constant damping.", lower_bound=0)
    flags.DEFINE_enum(
        "damping_type", "regular", ("regular", "LM_heuristics"), "Whether the damping is adapted."
    )
    flags.DEFINE_float("decay", 0.9, "The factor of the LM heuristic; RMSprop's decay.")
    flags.DEFINE_bool("jit_compile", False, "Compile a whole step with XLA, as a GPU wants it.")
    flags.DEFINE_bool("print_log_in_meta_optimizer", False, "Print the optimizer's own numbers.")
    flags.DEFINE_bool("debug_grad", False, "Name the operation whose result is not finite.")


def make_problem(part: str) -> problems.Problem:
    """Returns the problem that the flags describe.

    Args:
      part: Of the images: `"meta_train"` or `"train"`.
    """
    return problems.make(
        FLAGS.problem,
        FLAGS.data,
        data_dir=FLAGS.data_dir,
        part=part,
        split=FLAGS.split,
        batch_size=FLAGS.batch_size,
        seed=FLAGS.seed,
        weight_decay=FLAGS.weight_decay,
        data_format=FLAGS.data_format,
    )


def problem_settings() -> dict[str, str]:
    """Returns the flags that a checkpoint has to share with the run that continues it."""
    names = ("problem", "data", "split", "batch_size", "weight_decay")
    return {name: str(FLAGS[name].value) for name in names}


def run(main: Callable[[], None], define_flags: Callable[[], None]) -> None:
    """Parses the flags and runs a command; expected trouble ends in one sentence, status 1.

    Args:
      main: The command, which reads the flags.
      define_flags: Defines them.
    """
    define_flags()

    def guarded(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"Expected flags only, got {' '.join(argv[1:])}.")
        try:
            main()
        except EXPECTED_ERRORS as error:
            sys.exit(f"{type(error).__name__}: {error}")

    app.run(guarded)
