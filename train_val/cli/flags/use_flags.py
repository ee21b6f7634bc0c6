"""The flags of `use_meta_optimizer.py`."""

from __future__ import annotations

from absl import flags

from train_val.cli import names
from train_val.cli.definitions import choice, number, text, whole
from train_val.cli.exit_statuses import UsageError
from train_val.cli.flags.training_flags import define_common_flags
from train_val.training import optimizer_table

FLAGS = flags.FLAGS

_OPTIMIZER, _FIRST = "The optimizer", "First-order optimizers"


def define_flags() -> None:
    """Defines the flags."""
    # Not the seed of meta-training: the optimizer has seen its initial weights.
    define_common_flags(seed=1)
    text(
        "model_dir",
        None,
        "The folder for checkpoints and metrics; an earlier run there is continued.",
        "Files",
        shown="./eval_PROBLEM_OPTIMIZER, where plain Hessian-free is hf and the heuristic adds _lm",
    )
    choice(
        "optimizer",
        "meta",
        optimizer_table.TRAINING,
        "The optimizer that trains the network.",
        _OPTIMIZER,
        case_sensitive=False,
    )
    text(
        "meta_ckpt",
        None,
        "The meta-trained optimizer: the model_dir of a meta-training, a file, or a name that "
        f"ships with the package ({', '.join(names.pretrained())}).",
        _OPTIMIZER,
        only="--optimizer=meta",
    )
    number(
        "lr",
        None,
        "The learning rate.",
        _OPTIMIZER,
        above=0,
        shown=f"depends on --optimizer ({optimizer_table.rates_in_words()})",
    )
    _define_schedule()
    number(
        "momentum",
        0.9,
        "The momentum.",
        _FIRST,
        only="--optimizer=momentum, and kfac with --lr",
        at_least=0,
        below=1,
    )
    for name, default, moment in (("beta1", 0.9, "first"), ("beta2", 0.999, "second")):
        number(
            name,
            default,
            f"The decay of Adam's {moment} moment.",
            _FIRST,
            only="--optimizer=adam",
            at_least=0,
            below=1,
        )
    choice(
        "strategy",
        None,
        names.STRATEGIES,
        "The devices that each batch is divided among: mirrored, all GPUs of this machine, or "
        "multi_worker, the processes of the cluster that TF_CONFIG describes, each started with "
        "the same flags. The first process writes to --model_dir.",
        "Speed and numbers",
        shown="one device",
    )
    define_measured_images()
    whole(
        "record_experience",
        0,
        "The number of snapshots of the training to keep in model_dir/experience, for "
        "train_meta_optimizer's --experience.",
        "Files",
        at_least=0,
    )


def _define_schedule() -> None:
    choice(
        "schedule",
        "constant",
        names.SCHEDULES,
        "How the learning rate falls to the last step: constant (not at all), linear or cosine.",
        _OPTIMIZER,
    )
    number(
        "warmup",
        0.0,
        "The steps over which the learning rate rises linearly; below 1, a share of --horizon.",
        _OPTIMIZER,
        at_least=0,
    )
    whole(
        "horizon",
        None,
        "The number of steps at whose end the learning rate has fallen.",
        _OPTIMIZER,
        only="--schedule or --warmup",
        shown="the steps of the run",
    )


def define_statistics() -> None:
    """Defines the flag for the statistics that batch normalisation has in evaluations."""
    choice(
        "statistics",
        "population",
        names.STATISTICS,
        "The statistics that batch normalisation has in evaluations: population, computed anew "
        "from training images at the current weights, or moving, the moving averages, as in the "
        "paper.",
        "Length and reports",
    )


def define_measured_images() -> None:
    """Defines what reports of `use_meta_optimizer.py` measure, and on how many images."""
    define_statistics()
    shown = "as many as training will have seen, at least 1,000, at most all"
    whole(
        "loss_images",
        None,
        "Training images, evenly spread, that reports measure the loss on.",
        "Length and reports",
        shown=shown,
    )
    whole(
        "test_images",
        None,
        "Test images, evenly spread, that reports measure the accuracy on.",
        "Length and reports",
        shown=shown,
    )


def default_folder() -> str:
    """Returns the folder of a run without `--model_dir`; each kind of optimizer has its own."""
    name = "hf" if is_plain_hessian_free() else FLAGS.optimizer
    adapted = FLAGS["damping_type"].present and FLAGS.damping_type == "LM_heuristics"
    return f"./eval_{FLAGS.problem}_{name}{'_lm' if adapted else ''}".lower()


def is_plain_hessian_free() -> bool:
    """Whether the flags ask for MLHF without anything learned."""
    return FLAGS.optimizer == "meta" and FLAGS.y_use == "none" and FLAGS.d_use == "none"


def is_scheduled() -> bool:
    """Whether the learning rate changes with the steps."""
    return FLAGS.schedule != "constant" or FLAGS.warmup > 0


def check_flags() -> None:
    """Refuses flags that contradict each other.

    Raises:
      UsageError: If there are any; the text says what to give.
    """
    meta = FLAGS.optimizer == "meta"
    plain = is_plain_hessian_free()
    if FLAGS.horizon is not None and not is_scheduled():
        raise UsageError("Expected --schedule or --warmup beside --horizon, got neither.")
    if is_scheduled() and FLAGS.optimizer == "martens":
        raise UsageError(
            "Expected --optimizer with a learning rate beside --schedule or --warmup, got martens, "
            "which searches along a line."
        )
    if is_scheduled() and FLAGS.optimizer == "kfac" and FLAGS.lr is None:
        raise UsageError("Expected --lr for kfac beside --schedule or --warmup, got none.")
    if FLAGS.product_dtype is not None and not meta:
        raise UsageError(
            f"Expected --product_dtype with --optimizer=meta only, got it with {FLAGS.optimizer}, "
            "which has no products of the Gauss-Newton matrix in another dtype; leave it out."
        )
    if meta and not plain and FLAGS.meta_ckpt is None:
        raise UsageError(
            "--optimizer=meta needs --meta_ckpt: the folder of a meta-training (its model_dir), or "
            f"one of the names {names.pretrained()} that ship with the package. Plain "
            "Hessian-free, --y_use=none with --d_use=none, needs none."
        )
    if plain and FLAGS.meta_ckpt is not None:
        raise UsageError(
            "--y_use=none with --d_use=none is plain Hessian-free, which has nothing learned to "
            f"take from --meta_ckpt={FLAGS.meta_ckpt}; leave meta_ckpt out, or give the uses that "
            "it was meta-trained with."
        )
    if plain and FLAGS.x_use == "rnn":
        raise UsageError(
            "--x_use=rnn with --y_use=none and --d_use=none is not an optimizer of the paper: "
            "expected x_use=x or x_use=d."
        )
    if FLAGS.strategy is not None and FLAGS.jit_compile:
        raise UsageError(
            f"Expected --jit_compile=false beside --strategy={FLAGS.strategy}, got true: XLA "
            "compiles a step for one device."
        )
    if FLAGS.optimizer == "kfac":
        if FLAGS["damping"].present and not FLAGS.damping > 0:
            raise UsageError(f"Expected --damping above 0 with kfac, got {FLAGS.damping}.")
    check_split()


def check_split() -> None:
    """Refuses CIFAR-10's other split for other data.

    Raises:
      UsageError: If it is given.
    """
    if FLAGS.split != "original" and FLAGS.data != "cifar10":
        raise UsageError(
            f"Expected --split=original with --data={FLAGS.data}, which has one split; standard is "
            "CIFAR-10's only."
        )
