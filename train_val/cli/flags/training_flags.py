"""The flags that training and meta-training share."""

from __future__ import annotations

from absl import flags

from train_val.cli import names
from train_val.cli.definitions import choice, number, switch, text, whole
from train_val.networks import network_table

FLAGS = flags.FLAGS

_WHAT, _LONG, _OPTIMIZER = "What is trained", "Length and reports", "The optimizer"
_STEPS = "Hessian-free steps (MLHF, plain and Martens' Hessian-free, K-FAC)"
_LEARNED, _FILES, _SPEED = "The learned part (MLHF)", "Files", "Speed and numbers"

# The numbers that the optimizer itself reports: name in the metrics -> formula.
OWN_NUMBERS = {
    "x_by_g": "‖x‖/‖g‖",
    "r_norm": "‖r‖",
    "minus_h": "-h",
    "g_length_in_A": "‖g‖²/√<g, A g>",
    "g_dot_x": "<g, x>",
    "g_square": "‖g‖²",
    "w_norm": "‖w‖",
}
_HF = "Hessian-free: MLHF and plain (--optimizer=meta), and --optimizer=martens"


def define_problem_flags() -> None:
    """Defines the flags that say what is trained."""
    choice("problem", "convnet", network_table.TRAINED, "The network.", _WHAT, case_sensitive=False)
    choice("data", "cifar10", names.DATA, "The data set.", _WHAT)
    text(
        "data_dir",
        None,
        "The folder with the data set's files; README says which.",
        _WHAT,
        shown="tensorflow-datasets downloads",
    )
    choice(
        "split",
        "original",
        names.SPLITS,
        "How CIFAR-10's training images are divided: original gives meta-training batches 1 to 3 "
        "and training batches 4 and 5, standard gives both all five.",
        _WHAT,
        only="--data=cifar10",
    )
    whole("batch_size", 128, "Examples per batch.", _WHAT)
    number(
        "weight_decay",
        0.0,
        "The factor c in the penalty c/2 times the sum of the squared weights.",
        _WHAT,
        at_least=0,
    )
    whole("resnet_size", 32, "The depth of the ResNet.", _WHAT, only="--problem=resnet")
    whole(
        "num_classes",
        None,
        "The number of classes, if other than the number found in the files.",
        _WHAT,
        only="--data=imagenet",
        shown="as found",
    )
    whole(
        "image_size",
        None,
        "The side of an image in pixels.",
        _WHAT,
        only="--data=imagenet",
        shown="224",
    )
    choice(
        "data_format",
        "auto",
        ("auto", "channels_first", "channels_last"),
        "The place of an image's channels; auto takes whichever is faster on the device.",
        _SPEED,
    )


def define_common_flags(seed: int = 0) -> None:
    """Defines the flags of meta-training and training, with the original's defaults.

    Args:
      seed: The default of `--seed`.
    """
    define_problem_flags()
    _define_length()
    _define_files()
    whole(
        "seed", seed, "Seed of initial weights, batches and noise.", "Other", at_least=0,
        at_most=2**31 - 1,
    )  # fmt: skip
    _define_rule()
    _define_speed()


def _define_length() -> None:
    whole("train_epochs", 250, "Epochs to train for.", _LONG)
    whole(
        "max_steps",
        None,
        "Steps (meta-steps in meta-training) to stop after, if the epochs have more.",
        _LONG,
        shown="no limit",
    )
    whole("epochs_per_eval", 10, "Epochs between two reports.", _LONG)


def _define_files() -> None:
    whole("save_steps", 1000, "Steps between two checkpoints.", _FILES)
    number(
        "save_minutes",
        5.0,
        "Minutes after which a checkpoint is written even before --save_steps are over; 0 for "
        "never. Ctrl-C and SIGTERM save too, and end the command after the current step.",
        _FILES,
        at_least=0,
    )


def _define_rule() -> None:
    whole(
        "CG_iter",
        2,
        "Conjugate-gradient iterations per step.",
        _STEPS,
        only=_HF,
        shown="2; with --meta_ckpt as meta-trained; 4 for plain Hessian-free, at most 250 for "
        "martens",
    )
    choice(
        "x_use",
        "x",
        ("x", "d", "rnn"),
        "Where conjugate gradients start: x at the last solution, d at the gradient, rnn at what "
        "an LSTM proposes.",
        _STEPS,
        only="--optimizer=meta",
    )
    choice(
        "y_use",
        "rnn",
        ("rnn", "none"),
        "The preconditioner: from an LSTM, or none.",
        _LEARNED,
        only="--optimizer=meta",
    )
    choice(
        "d_use",
        "rnn",
        ("rnn", "none"),
        "The damping: from an LSTM, added to --damping, or --damping alone. With --y_use=none "
        "--d_use=none nothing is learned, and the optimizer is plain Hessian-free.",
        _LEARNED,
        only="--optimizer=meta",
    )
    number(
        "damping",
        2e-5,
        "The constant damping, or its initial value if it is adapted.",
        _STEPS,
        at_least=0,
        shown="2e-05; with --meta_ckpt as meta-trained; 1 for plain Hessian-free, martens and kfac",
    )
    choice(
        "damping_type",
        "regular",
        ("regular", "LM_heuristics"),
        "Whether the damping stays constant or is adapted by the Levenberg-Marquardt heuristic.",
        _STEPS,
        shown="regular; LM_heuristics for martens",
    )
    number(
        "decay",
        0.9,
        "The factor by which the heuristic changes the damping; for kfac, the share of its factors "
        "that is kept per step (0.95 if left out); for RMSprop, the share of its mean square that "
        "is kept per step.",
        _STEPS,
        above=0,
        at_most=1,
    )
    number(
        "curvature_share",
        1.0,
        "The share of a batch, its first examples, that the curvature is computed on.",
        _STEPS,
        only=_HF,
        above=0,
        at_most=1,
    )
    _define_inputs()


def _define_inputs() -> None:
    number(
        "damping_scale",
        1.0,
        "A factor on the learned damping; worth trying together with --lr on a network unlike "
        "those of meta-training.",
        _LEARNED,
        only="--optimizer=meta",
        above=0,
    )
    choice(
        "input_scale",
        "none",
        ("none", "rms"),
        "How gradients, residuals and solutions reach the LSTMs: as they are, or divided by the "
        "root mean square of each variable's entries.",
        _LEARNED,
        only="--optimizer=meta",
    )
    choice(
        "inputs",
        "grx",
        names.INPUTS,
        "Which of the gradient, the residual and the solution the LSTMs see.",
        _LEARNED,
        only="--optimizer=meta",
    )


def _define_speed() -> None:
    choice(
        "product_dtype",
        None,
        ("bfloat16",),
        "The precision of the network's part of curvature products: faster on processors with "
        "units for it, with errors of about 1%.",
        _SPEED,
        only="--optimizer=meta",
        shown="float32",
    )
    switch("jit_compile", False, "Compile each step with XLA, which suits a GPU.", _SPEED)
    switch(
        "print_log_in_meta_optimizer",
        False,
        f"Print and record numbers of the optimizer: {', '.join(OWN_NUMBERS.values())}.",
        "Other",
        only="--optimizer=meta",
    )
    switch(
        "debug_grad",
        False,
        "Repeat the first step that is not finite with every operation checked, and name the "
        "operation whose result is not finite.",
        "Other",
    )
