"""The tasks that a controller is meta-trained on: none of `TASKS`, which it is judged by.

The first twenty are those of the first hour; those after them were added where what was learned was
behind the rule, or had seen nothing of the kind.
"""

from __future__ import annotations

import functools

from benchmarks.step_length import tasks
from benchmarks.step_length.tasks import CHARACTERS, Task
from train_val.networks import convnets
from train_val.task_families import families

_mlp = functools.partial(functools.partial, families.mlp)
_convnet = functools.partial(functools.partial, families.convnet)
_residual = functools.partial(functools.partial, families.residual)
_transformer = functools.partial(functools.partial, tasks.transformer)
_recurrent = functools.partial(functools.partial, tasks.recurrent)
_images = functools.partial(Task, tasks.small_images, loss="softmax_cross_entropy", outputs=10)
_middle = functools.partial(Task, tasks.middle_images, loss="softmax_cross_entropy", outputs=10)
_mnist = functools.partial(Task, tasks.mnist, loss="softmax_cross_entropy", outputs=10)
_digits = functools.partial(Task, tasks.digits, loss="softmax_cross_entropy", outputs=10)
_text = functools.partial(Task, tasks.text, loss="softmax_cross_entropy", outputs=CHARACTERS)
_friedman = functools.partial(Task, tasks.friedman, loss="squared_error", outputs=1)
_waves = functools.partial(Task, tasks.waves, loss="squared_error", outputs=2)
_pixels = functools.partial(Task, tasks.pixels, loss="squared_error", outputs=196)

LEARNING_TASKS = [
    _images(network=_mlp(width=64, depth=1, activation="relu"), batch=64, steps=80),
    _images(network=_mlp(width=128, depth=3, activation="relu"), batch=256, steps=60),
    _images(network=_mlp(width=64, depth=2, activation="tanh"), batch=1024, steps=50),
    _images(network=_mlp(width=64, depth=2, activation="relu"), batch=64, steps=600),
    _digits(network=_mlp(width=32, depth=2, activation="tanh"), batch=32, steps=200),
    _mnist(network=_mlp(width=64, depth=2, activation="relu"), batch=128, steps=300),
    _mnist(network=_mlp(width=128, depth=1, activation="relu"), batch=512, steps=40),
    _friedman(network=_mlp(width=64, depth=2, activation="tanh"), batch=64, steps=200),
    _friedman(network=_mlp(width=128, depth=2, activation="relu"), batch=512, steps=100),
    _images(network=_convnet(width=8, dense=32), batch=32, steps=150),
    _images(network=_convnet(width=32, dense=64), batch=128, steps=60),
    _images(network=_convnet(width=16, dense=64, depth=3, activation="tanh"), batch=512, steps=40),
    _images(network=_convnet(width=8, dense=64), batch=2048, steps=30),
    _mnist(network=_convnet(width=8, dense=32), batch=128, steps=60),
    _middle(network=_convnet(width=8, dense=64), batch=128, steps=60),
    _images(network=_residual(width=8, depth=1), batch=128, steps=60),
    _images(network=_residual(width=16, depth=1), batch=512, steps=40),
    _digits(network=_transformer(width=32, depth=1), batch=64, steps=80),
    _text(network=_transformer(width=32, depth=1), batch=16, steps=100),
    _text(network=_recurrent(width=32), batch=16, steps=100),
    _friedman(network=_mlp(width=48, depth=3, activation="relu"), batch=32, steps=300),
    _friedman(network=_mlp(width=64, depth=1, activation="relu"), batch=16, steps=250),
    _waves(network=_mlp(width=32, depth=2, activation="gelu"), batch=64, steps=250),
    _pixels(network=_mlp(width=32, depth=3, activation="relu"), batch=128, steps=150),
    _middle(network=_convnet(width=24, dense=192), batch=64, steps=50),
    _text(network=_recurrent(width=48), batch=64, steps=60),
    _middle(network=convnets.convnet, batch=512, steps=30),
    _middle(network=convnets.convnet, batch=128, steps=60),
    _images(network=_convnet(width=64, dense=256), batch=512, steps=50),
    _images(network=_convnet(width=48, dense=128), batch=64, steps=150),
    _images(network=_mlp(width=384, depth=2, activation="relu"), batch=512, steps=60),
    _mnist(network=_convnet(width=24, dense=96), batch=512, steps=40),
]
