"""Meta-trains an MLHF optimizer: `python train_val/train_meta_optimizer.py --data_dir=...`."""

from __future__ import annotations

if not __package__:
    import _bootstrap  # noqa: F401

import math

from absl import flags

import mlhf
from train_val import command_line, problems

FLAGS = flags.FLAGS

# Epochs of the images really seen at which the meta learning rate falls by 10.
BOUNDARIES = (150, 190, 220)


def schedule(meta_lr: float, images_a_step: int, images: int):
    """Returns the meta learning rate as a function of meta-steps done."""

    def rate(step: int) -> float:
        epoch = step * images_a_step / images
        return meta_lr * 0.1 ** sum(epoch >= boundary for boundary in BOUNDARIES)

    return rate


def main() -> None:
    """Reads the flags and meta-trains."""
    problem = problems.make(
        FLAGS.problem,
        FLAGS.data,
        data_dir=FLAGS.data_dir,
        part="meta_train",
        split=FLAGS.split,
        batch_size=FLAGS.batch_size,
        seed=FLAGS.seed,
        weight_decay=FLAGS.weight_decay,
        data_format=FLAGS.data_format,
    )
    optimizer = mlhf.MetaHessianFree(
        FLAGS.lr,
        cg_iterations=FLAGS.CG_iter,
        x_use=FLAGS.x_use,
        y_use=FLAGS.y_use,
        d_use=FLAGS.d_use,
        damping=FLAGS.damping,
        damping_type=FLAGS.damping_type,
        decay=FLAGS.decay,
        seed=FLAGS.seed,
    )
    images_a_step = FLAGS.batch_size * FLAGS.meta_roll_back
    steps = math.ceil(FLAGS.train_epochs * len(problem.train) / images_a_step)
    mlhf.meta_train(
        problem.task,
        optimizer,
        min(steps, FLAGS.max_steps or steps),
        roll_back=FLAGS.meta_roll_back,
        meta_lr=schedule(FLAGS.meta_lr, images_a_step, len(problem.train)),
        keep_prob=FLAGS.keep_prob,
        seed=FLAGS.seed,
        model_dir=FLAGS.model_dir or "./meta_optimizer",
        save_steps=FLAGS.save_steps,
        jit_compile=FLAGS.jit_compile,
    )


def define_flags() -> None:
    """Defines the flags."""
    command_line.define_common_flags()
    flags.DEFINE_integer("meta_roll_back", 10, "Training steps in a meta-step.", lower_bound=1)
    flags.DEFINE_float("keep_prob", 0.5, "Chance that training goes on.", 0.0, 1.0)
    flags.DEFINE_float("meta_lr", 1e-3, "Adam's step size for the LSTMs' weights.")
    flags.DEFINE_string("experience", None, "A replay that rollouts begin from.")


if __name__ == "__main__":
    command_line.run(main, define_flags)
