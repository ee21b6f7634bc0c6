"""What the command lines share: flags, what they print, and errors as one sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tqdm
from absl import app, flags, logging

from mlhf import debugging
from mlhf.checkpoints import CheckpointError
from mlhf.proposal import INPUTS
from train_val import problems
from train_val.data import IMAGENET, NAMES, SPLITS, DataError

FLAGS = flags.FLAGS

EXPECTED_ERRORS = (CheckpointError, DataError, OSError, ValueError)
# As shells report a program that ended by Ctrl-C.
INTERRUPTED = 130

# The optimizer's own numbers: name in the metrics -> what it is.
OWN_NUMBERS = {
    "x_by_g": "‖x‖/‖g‖",
    "r_norm": "‖r‖",
    "minus_h": "-h",
    "g_length_in_A": "‖g‖²/√<g, A g>",
    "g_dot_x": "<g, x>",
    "g_square": "‖g‖²",
    "w_norm": "‖w‖",
}


def define_problem_flags() -> None:
    """Defines the flags that say what is trained."""
    flags.DEFINE_string("data_dir", None, "Where the data set's files are; downloads if left out.")
    flags.DEFINE_enum(
        "problem", "convnet", sorted(problems.NETWORKS), "The network.", case_sensitive=False
    )
    flags.DEFINE_enum("data", "cifar10", NAMES, "The data set.")
    flags.DEFINE_enum(
        "split",
        "original",
        SPLITS,
        "How CIFAR-10 is parted: meta-training on batches 1 to 3 and training on 4 and 5, or both "
        "on all five.",
    )
    flags.DEFINE_enum(
        "data_format", "auto", ("auto", "channels_first", "channels_last"), "The axes of images."
    )
    flags.DEFINE_integer("resnet_size", 32, "The depth of a ResNet; other networks ignore it.")
    flags.DEFINE_integer(
        "num_classes", None, "Classes of data=imagenet, if not those found.", lower_bound=1
    )
    flags.DEFINE_integer(
        "image_size", None, "The side of data=imagenet's images, 224 by default.", lower_bound=1
    )
    flags.DEFINE_integer("batch_size", 128, "Examples in a batch.", lower_bound=1)
    flags.DEFINE_float("weight_decay", 0.0, "c of c/2 times the squared weights.", lower_bound=0)


def define_common_flags(seed: int = 0) -> None:
    """Defines the flags of meta-training and evaluation, with the original's defaults.

    Args:
      seed: The default of `--seed`.
    """
    define_problem_flags()
    flags.DEFINE_string("model_dir", None, "Where checkpoints and metrics go.")
    flags.DEFINE_integer("train_epochs", 250, "Epochs to train for.", lower_bound=1)
    flags.DEFINE_integer("max_steps", None, "Steps to stop at, if epochs are more.", lower_bound=1)
    flags.DEFINE_integer("epochs_per_eval", 10, "Epochs between reports.", lower_bound=1)
    flags.DEFINE_integer("save_steps", 1000, "Steps between checkpoints.", lower_bound=1)
    flags.DEFINE_integer("seed", seed, "Of weights, batches and noise.", 0, 2**31 - 1)
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
    flags.DEFINE_float(
        "curvature_share",
        1.0,
        "The share of a batch that the curvature is taken on, its first examples. Of meta, plain "
        "Hessian-free and martens.",
        0.0,
        1.0,
    )
    flags.DEFINE_float(
        "damping_scale",
        1.0,
        "Of the learned damping: to try beside --lr on a network unlike those of meta-training.",
    )
    flags.DEFINE_enum(
        "input_scale",
        "none",
        ("none", "rms"),
        "What the LSTMs see of gradients, residuals and solutions: as they are, or by the root "
        "mean square of each variable's entries.",
    )
    flags.DEFINE_enum(
        "inputs",
        "grx",
        INPUTS,
        "Which of the gradient, the residual and the solution the LSTMs see.",
    )
    flags.DEFINE_enum(
        "product_dtype",
        None,
        ("bfloat16",),
        "Compute the network's part of curvature products in it: faster where the processor has "
        "such units, errors of about 0.3%. Of meta and plain Hessian-free.",
    )
    flags.DEFINE_bool("jit_compile", False, "Compile a whole step with XLA, as a GPU wants it.")
    flags.DEFINE_bool(
        "print_log_in_meta_optimizer",
        False,
        "Print and record the optimizer's own numbers: " + ", ".join(OWN_NUMBERS.values()) + ".",
    )
    flags.DEFINE_bool(
        "debug_grad",
        False,
        "Repeat the first step that is not finite with every operation checked, and name the one "
        "whose result is not.",
    )


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
        resnet_size=FLAGS.resnet_size,
        num_classes=FLAGS.num_classes,
        image_size=FLAGS.image_size,
        data_format=FLAGS.data_format,
    )


def problem_settings(*found: problems.Problem) -> dict[str, str]:
    """Returns what a checkpoint has to share with the run that continues it.

    Args:
      *found: The problems that the flags describe.
    """
    names = ["problem", "data", "split", "batch_size", "weight_decay"]
    if FLAGS.problem == "resnet":
        names.append("resnet_size")
    images = [p.image_fingerprint for p in found if p.image_fingerprint]
    if FLAGS.data == IMAGENET or images:
        names += ["num_classes", "image_size"]
    settings = {name: str(FLAGS[name].value) for name in names}
    return {**settings, **({"images": ", ".join(images)} if images else {})}


def own_numbers(step: int, metrics: Mapping[str, Any]) -> str:
    """Returns a line with the optimizer's own numbers of a step."""
    found = [
        f"{title} {metrics[name]:.4g}" for name, title in OWN_NUMBERS.items() if name in metrics
    ]
    return f"step {step}: {', '.join(found) or 'this optimizer has no numbers of its own'}"


def name_once() -> Callable[[Callable[[], Any]], None] | None:
    """Returns what `--debug_grad` does about steps that are not finite; None without the flag."""
    if not FLAGS.debug_grad:
        return None
    named: list[str] = []

    def name(repeat: Callable[[], Any]) -> None:
        if not named:
            named.append(debugging.name_not_finite(repeat))
            tqdm.tqdm.write(named[0])

    return name


def run(main: Callable[[], None], define_flags: Callable[[], None]) -> None:
    """Parses the flags and runs a command; expected trouble ends in one sentence, status 1.

    Args:
      main: The command, which reads the flags.
      define_flags: Defines them.
    """
    define_flags()
    # Libraries' news are not this command's.
    logging.set_verbosity(logging.WARNING)
    app.run(lambda argv: guarded(main, argv))


def guarded(main: Callable[[], None], argv: Sequence[str] = ("",)) -> None:
    """Runs a command whose flags are parsed.

    Args:
      main: The command.
      argv: What is left of the command line.

    Raises:
      SystemExit: With a sentence for expected trouble (status 1), and after Ctrl-C (130).
    """
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only, got {' '.join(argv[1:])}.")
    try:
        main()
    except EXPECTED_ERRORS as error:
        sys.exit(sentence(error))
    except KeyboardInterrupt:
        print(
            "Interrupted. The same command continues from the last checkpoint, if there is one; "
            "nothing was left half written.",
            file=sys.stderr,
        )
        sys.exit(INTERRUPTED)


def sentence(error: Exception) -> str:
    """Returns an error's own sentence, or one for an error of the system."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return (
            f"Expected to use {error.filename}, could not ({error.strerror}): make room, change "
            "its permissions, or choose another place."
        )
    return str(error)
