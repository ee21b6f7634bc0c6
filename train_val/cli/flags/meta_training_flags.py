"""The flags of `train_meta_optimizer.py`."""

from __future__ import annotations

from absl import flags

from train_val.cli import names
from train_val.cli.definitions import choice, number, redescribe, text, whole
from train_val.cli.exit_statuses import UsageError
from train_val.cli.flags.training_flags import define_common_flags
from train_val.cli.flags.use_flags import check_split
from train_val.cli.specification_checks import check_tasks
from train_val.networks import network_table

FLAGS = flags.FLAGS

# The flags that only one estimator has.
OF_ESTIMATOR = {
    "backprop": (
        "keep_prob",
        "experience",
        "jit_compile",
        "print_log_in_meta_optimizer",
        "debug_grad",
    ),
    "pes": ("horizon", "pairs", "deviation", "layers"),
    "es": ("horizon", "deviation"),
}
OF_THE_RULE = (
    *("x_use", "y_use", "d_use", "damping_type", "damping_scale", "input_scale", "inputs"),
    *("product_dtype", "print_log_in_meta_optimizer"),
)
# What the controller of a step, which es learns, has no use for.
NOT_OF_THE_CONTROLLER = (
    *OF_THE_RULE[:-1],
    *("CG_iter", "damping", "decay", "lr", "initial_damping", "meta_roll_back"),
)
_META, _PES = "Meta-training", "Meta-training by evolution strategies"
_BACKPROP_ONLY, _PES_ONLY = "--estimator=backprop", "--estimator=pes"
_EVOLUTION_ONLY = "--estimator=pes or es"


def define_flags() -> None:
    """Defines the flags."""
    define_common_flags()
    # Meta-training has one optimizer only, so none of these is for some optimizers alone.
    redescribe(OF_THE_RULE)
    FLAGS["decay"].help = "The factor by which the heuristic changes the damping."
    redescribe(
        ("CG_iter", "damping", "curvature_share"), shown="{}; with --meta_ckpt as meta-trained"
    )
    text(
        "model_dir",
        None,
        "The folder for checkpoints, metrics, the replay and the optimizer; an earlier run there "
        "is continued.",
        "Files",
        shown="./meta_optimizer",
    )
    choice(
        "estimator",
        "backprop",
        ("backprop", "pes", "es"),
        "How the meta-gradient is estimated: backprop, the paper's way, back through a rollout; "
        "pes, persistent evolution strategies, which minimise the training loss over --horizon "
        "steps and learn --lr too; es, over whole trainings of --horizon steps, which learns the "
        "controller of mlhf.MetaMuon.",
        _META,
    )
    number(
        "lr",
        1.0,
        "The learning rate of the rollouts; pes starts from it and learns it.",
        _META,
        above=0,
        shown="1; with --meta_ckpt as meta-trained",
    )
    number(
        "meta_lr",
        1e-3,
        "Adam's step size for the LSTMs' weights; with es, in units of --deviation.",
        _META,
        above=0,
        shown="0.001; with es 0.4",
    )
    whole("meta_roll_back", 10, "Training steps per meta-step.", _META)
    number(
        "keep_prob",
        0.5,
        "The probability that training goes on after a meta-step; otherwise it restarts from a "
        "snapshot.",
        _META,
        only=_BACKPROP_ONLY,
        at_least=0,
        at_most=1,
    )
    text(
        "experience",
        None,
        "A replay that rollouts start from, made by use_meta_optimizer's --record_experience.",
        _META,
        only=_BACKPROP_ONLY,
    )
    text(
        "meta_ckpt",
        None,
        "A meta-optimizer to continue from: its weights, and its rule and learning rate unless "
        "flags set them. A model_dir, a file, or a name that ships with the package "
        f"({', '.join(names.pretrained())}).",
        _META,
    )
    number(
        "initial_damping",
        None,
        "The damping that an untrained LSTM outputs.",
        _META,
        above=0,
        shown="0.69",
    )
    _define_tasks()
    _define_evolution()


def _define_tasks() -> None:
    text(
        "tasks",
        None,
        "A mixture of tasks instead of --problem, taken in turn: families with settings, such as "
        "mlp:width=16,mlp:width=64:depth=2:batch_size=32,convnet:data=digits. Families: "
        f"{', '.join(network_table.FAMILIES)}.",
        "What is trained",
    )
    text(
        "task_file",
        None,
        "A Python file that defines families of tasks.",
        "What is trained",
        only="--tasks",
    )


def _define_evolution() -> None:
    whole("horizon", 100, "Steps per training; with pes a multiple of --meta_roll_back.", _PES,
          only=_EVOLUTION_ONLY)  # fmt: skip
    whole("pairs", 4, "Pairs of trainings per task.", _PES, only=_PES_ONLY)
    number(
        "deviation",
        0.05,
        "The standard deviation of the perturbations.",
        _PES,
        only=_EVOLUTION_ONLY,
        above=0,
        shown="0.05; with es 0.1",
    )
    choice(
        "layers",
        "all",
        ("all", "output"),
        "Which layers of the LSTMs are learned; the output layer alone is less noisy.",
        _PES,
        only=_PES_ONLY,
    )


def check_flags() -> None:
    """Refuses flags that the estimator, or a mixture of tasks, has no use for.

    Raises:
      UsageError: If there are any; the text names the flag.
    """
    for name in {name: None for members in OF_ESTIMATOR.values() for name in members}:
        known = [estimator for estimator, members in OF_ESTIMATOR.items() if name in members]
        if FLAGS.estimator not in known and FLAGS[name].present:
            raise UsageError(
                f"Expected {name} with estimator={' or '.join(known)} only, got it with "
                f"estimator={FLAGS.estimator}."
            )
    unused = [name for name in NOT_OF_THE_CONTROLLER if FLAGS[name].present]
    if FLAGS.estimator == "es" and unused:
        raise UsageError(
            f"Expected {unused[0]} with estimator=backprop or pes only, got it with estimator=es: "
            "the controller of mlhf.MetaMuon has nothing to set."
        )
    if FLAGS.tasks and FLAGS["problem"].present:
        raise UsageError(f"Expected tasks or problem, got both: {FLAGS.tasks} and {FLAGS.problem}.")
    if FLAGS.tasks and FLAGS["resnet_size"].present:
        raise UsageError("Expected resnet_size with --problem=resnet, got it with tasks.")
    if FLAGS.task_file and not FLAGS.tasks:
        raise UsageError(
            f"Expected tasks of the families that {FLAGS.task_file} defines beside it, got none."
        )
    if FLAGS.tasks:
        check_tasks(FLAGS.tasks, FLAGS.task_file)
    if FLAGS.estimator == "pes" and FLAGS.horizon % FLAGS.meta_roll_back:
        raise UsageError(
            f"Expected --horizon as a multiple of --meta_roll_back={FLAGS.meta_roll_back}, got "
            f"{FLAGS.horizon}."
        )
    learned = "rnn" in (FLAGS.x_use, FLAGS.y_use, FLAGS.d_use)
    if not learned and FLAGS.estimator != "es":
        raise UsageError("There is nothing to learn: give --x_use=rnn, --y_use=rnn or --d_use=rnn.")
    if not FLAGS.tasks:
        check_split()  # tasks may name data of their own
