"""The workloads: networks with their parameters and data, as NumPy arrays.

All frameworks use the same numbers, so that their results can be compared.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

CLASSES = 10
LENGTH, WORDS, WIDTH, HEADS, BLOCKS = 64, 64, 128, 4, 2
NETWORKS = ("convnet", "resnet20", "transformer")
# The default batch sizes: 64 sequences of the transformer are 4,096 predictions.
BATCHES = {"convnet": (64, 256), "resnet20": (64, 256), "transformer": (64,)}


@dataclasses.dataclass(frozen=True)
class Workload:
    """A network at random parameters and a random batch, with a mean cross entropy as its loss.

    Attributes:
      network: One of `NETWORKS`.
      batch: The number of images or sequences.
    """

    network: str
    batch: int

    def parameters(self) -> dict[str, np.ndarray]:
        """Returns float32 arrays by name, kernels of convolutions as [height, width, in, out]."""
        random = np.random.default_rng(0)
        return {name: _initial(random, name, shape) for name, shape in shapes(self.network).items()}

    def vector(self) -> dict[str, np.ndarray]:
        """Returns a direction of length one, like the parameters."""
        random = np.random.default_rng(1)
        drawn = {name: random.normal(size=s) for name, s in shapes(self.network).items()}
        length = np.sqrt(sum(np.sum(value**2) for value in drawn.values()))
        return {name: (value / length).astype(np.float32) for name, value in drawn.items()}

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns images [batch, 32, 32, 3] and classes [batch], or words [batch, 64] twice."""
        random = np.random.default_rng(2)
        if self.network == "transformer":
            words = random.integers(WORDS, size=(self.batch, LENGTH + 1)).astype(np.int32)
            return words[:, :-1], words[:, 1:]
        images = random.normal(size=(self.batch, 32, 32, 3)).astype(np.float32)
        return images, random.integers(CLASSES, size=self.batch).astype(np.int32)


def _initial(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    kind = name.rpartition("/")[2]
    if kind in ("kernel", "embeddings"):
        inputs = np.prod(
            shape[:2] if "output" in name else shape[:1] if len(shape) < 4 else shape[:3]
        )
        value = random.normal(size=shape) / np.sqrt(WIDTH if kind == "embeddings" else inputs)
    else:
        value = 0.1 * random.normal(size=shape) + (kind == "gamma")
    return value.astype(np.float32)


def shapes(network: str) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a network's parameters by their names."""
    return {"convnet": _convnet, "resnet20": _resnet20, "transformer": _transformer}[network]()


def _dense(name: str, inputs: int, outputs: int) -> dict[str, Any]:
    return {f"{name}/kernel": (inputs, outputs), f"{name}/bias": (outputs,)}


def _norm(name: str, width: int) -> dict[str, Any]:
    return {f"{name}/gamma": (width,), f"{name}/beta": (width,)}


def _convnet() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for i, inputs in enumerate((3, 64)):
        found |= {f"conv{i + 1}/kernel": (5, 5, inputs, 64), f"conv{i + 1}/bias": (64,)}
    for i, (inputs, outputs) in enumerate(((4096, 384), (384, 192), (192, CLASSES))):
        found |= _dense(f"dense{i + 1}", inputs, outputs)
    return found


def _resnet20() -> dict[str, Any]:
    found: dict[str, Any] = {"initial_conv/kernel": (3, 3, 3, 16)}
    inputs = 16
    for stage, width in enumerate((16, 32, 64)):
        for block in range(3):
            name = f"stage{stage + 1}_block{block + 1}_"
            if block == 0:
                found[f"{name}shortcut_conv/kernel"] = (1, 1, inputs, width)
            for i, into in enumerate((inputs, width)):
                found |= _norm(f"{name}{i + 1}_norm", into)
                found[f"{name}{i + 1}_conv/kernel"] = (3, 3, into, width)
            inputs = width
    return found | _norm("final_norm", 64) | _dense("final_dense", 64, CLASSES)


def _transformer() -> dict[str, Any]:
    found: dict[str, Any] = {"words/embeddings": (WORDS, WIDTH), "places/values": (LENGTH, WIDTH)}
    size = WIDTH // HEADS
    for block in range(BLOCKS):
        name = f"block{block + 1}_"
        found |= _norm(f"{name}norm1", WIDTH)
        for role in ("query", "key", "value"):
            found[f"{name}attention/{role}/kernel"] = (WIDTH, HEADS, size)
            found[f"{name}attention/{role}/bias"] = (HEADS, size)
        found[f"{name}attention/attention_output/kernel"] = (HEADS, size, WIDTH)
        found[f"{name}attention/attention_output/bias"] = (WIDTH,)
        found |= _norm(f"{name}norm2", WIDTH)
        found |= _dense(f"{name}dense1", WIDTH, 4 * WIDTH)
        found |= _dense(f"{name}dense2", 4 * WIDTH, WIDTH)
    return found | _norm("final_norm", WIDTH) | _dense("logits", WIDTH, WORDS)
