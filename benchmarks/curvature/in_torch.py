"""Products in PyTorch: the linear operators of curvlinops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import curvlinops
import numpy as np
import torch
from torch.nn import functional

from benchmarks.curvature import architectures
from benchmarks.curvature.measures import GAUSS_NEWTON, GRADIENT, HESSIAN, OWN, Measure
from benchmarks.curvature.workloads import Workload

CURVLINOPS = "curvlinops"
VERSION = f"PyTorch {torch.__version__}"


def set_threads(threads: int) -> None:
    """Limits the threads that an operation uses."""
    torch.set_num_threads(threads)


class _Ops:
    """Primitives on images [N, channels, height, width]."""

    relu = staticmethod(functional.relu)
    gelu = staticmethod(functional.gelu)
    einsum = staticmethod(torch.einsum)

    @staticmethod
    def conv(
        x: torch.Tensor,
        kernel: torch.Tensor,
        stride: int,
        pad: int,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return functional.conv2d(x, kernel, bias, stride, pad)

    @staticmethod
    def pool(x: torch.Tensor) -> torch.Tensor:
        return functional.max_pool2d(x, 2)

    @staticmethod
    def flatten(x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)

    @staticmethod
    def mean(x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))

    @staticmethod
    def batch_norm(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
        return functional.batch_norm(x, None, None, gamma, beta, training=True, eps=1e-5)

    @staticmethod
    def layer_norm(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, gamma.shape, gamma, beta, 1e-5)

    @staticmethod
    def embed(table: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        return functional.embedding(words, table)

    @staticmethod
    def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        # The fused attention has no forward-mode derivative.
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        return scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ value


class _Network(torch.nn.Module):
    def __init__(self, network: str, parameters: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self._network, self._names = network, list(parameters)
        for name, value in parameters.items():
            self.register_parameter(name.replace("/", "_"), torch.nn.Parameter(value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p = {name: getattr(self, name.replace("/", "_")) for name in self._names}
        return architectures.outputs(self._network, _Ops, p, x)


def _tensor(value: np.ndarray) -> torch.Tensor:
    if value.ndim == 4:
        value = value.transpose(3, 2, 0, 1)
    return torch.tensor(np.ascontiguousarray(value))


def measures(workload: Workload) -> list[Measure]:
    """Returns the measures of a workload."""
    parameters = {name: _tensor(value) for name, value in workload.parameters().items()}
    vector = [_tensor(value) for value in workload.vector().values()]
    inputs, targets = workload.data()
    x = torch.tensor(inputs) if inputs.ndim == 2 else torch.tensor(inputs).permute(0, 3, 1, 2)
    x = x.contiguous()
    y = torch.tensor(targets).long().reshape(-1)
    model = _Network(workload.network, parameters)
    loss = torch.nn.CrossEntropyLoss()
    trained = list(model.parameters())

    def gradient() -> Callable[[], Any]:
        return lambda: torch.autograd.grad(loss(model(x), y), trained)

    def product_of(operator: Callable[..., Any]) -> Callable[[], Callable[[], Any]]:
        def build() -> Callable[[], Any]:
            matrix = operator(
                model,
                loss,
                trained,
                [(x, y)],
                check_deterministic=False,
                num_data=len(x),
            )
            return lambda: matrix @ vector

        return build

    def length(result: Any) -> float:
        return float(sum((part**2).sum() for part in result) ** 0.5)

    return [
        Measure(OWN, GRADIENT, 1, gradient, length),
        Measure(CURVLINOPS, GAUSS_NEWTON, 1, product_of(curvlinops.GGNLinearOperator), length),
        Measure(CURVLINOPS, HESSIAN, 1, product_of(curvlinops.HessianLinearOperator), length),
    ]
