"""Products in JAX: `jax.linearize` and its transpose, with any number of products, compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.curvature import architectures
from benchmarks.curvature.measures import GAUSS_NEWTON, GRADIENT, HESSIAN, OWN, Measure
from benchmarks.curvature.workloads import Workload

Arrays = dict[str, jax.Array]
LINEARIZE, FORWARD_OVER_REVERSE = "linearize", "jvp of grad"
VERSION = f"JAX {jax.__version__}"


def set_threads(threads: int) -> None:
    """Does nothing: JAX uses one thread per processor of the process."""
    del threads


class _Ops:
    """Primitives on images [N, height, width, channels]."""

    relu = staticmethod(jax.nn.relu)
    einsum = staticmethod(jnp.einsum)

    @staticmethod
    def conv(
        x: jax.Array, kernel: jax.Array, stride: int, pad: int, bias: jax.Array | None = None
    ) -> jax.Array:
        y = lax.conv_general_dilated(
            x, kernel, (stride,) * 2, [(pad, pad)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y if bias is None else y + bias

    @staticmethod
    def pool(x: jax.Array) -> jax.Array:
        sizes = (1, 2, 2, 1)
        return lax.reduce_window(x, -jnp.inf, lax.max, sizes, sizes, "VALID")

    @staticmethod
    def flatten(x: jax.Array) -> jax.Array:
        return x.reshape(x.shape[0], -1)

    @staticmethod
    def mean(x: jax.Array) -> jax.Array:
        return x.mean((1, 2))

    @staticmethod
    def batch_norm(x: jax.Array, gamma: jax.Array, beta: jax.Array) -> jax.Array:
        return _normalized(x, (0, 1, 2)) * gamma + beta

    @staticmethod
    def layer_norm(x: jax.Array, gamma: jax.Array, beta: jax.Array) -> jax.Array:
        return _normalized(x, -1) * gamma + beta

    @staticmethod
    def embed(table: jax.Array, words: jax.Array) -> jax.Array:
        return table[words]

    @staticmethod
    def gelu(x: jax.Array) -> jax.Array:
        return jax.nn.gelu(x, approximate=False)

    @staticmethod
    def attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        scores = jnp.einsum("bhtd,bhsd->bhts", query, key) / query.shape[-1] ** 0.5
        allowed = jnp.tril(jnp.ones(scores.shape[-2:], bool))
        weights = jax.nn.softmax(jnp.where(allowed, scores, -jnp.inf))
        return jnp.einsum("bhts,bhsd->bhtd", weights, value)


def _normalized(x: jax.Array, axes: int | tuple[int, ...]) -> jax.Array:
    centred = x - x.mean(axes, keepdims=True)
    return centred * lax.rsqrt((centred**2).mean(axes, keepdims=True) + 1e-5)


def measures(workload: Workload) -> list[Measure]:
    """Returns the measures of a workload."""
    parameters, vector = (
        {name: jnp.asarray(value) for name, value in values.items()}
        for values in (workload.parameters(), workload.vector())
    )
    inputs, targets = (jnp.asarray(array) for array in workload.data())
    targets = targets.reshape(-1)

    def network(parameters: Arrays, inputs: jax.Array) -> jax.Array:
        return architectures.outputs(workload.network, _Ops, parameters, inputs)

    def loss(parameters: Arrays, inputs: jax.Array) -> jax.Array:
        z = jax.nn.log_softmax(network(parameters, inputs))
        return -jnp.take_along_axis(z, targets[:, None], 1).mean()

    def gradient(parameters: Arrays, v: Arrays | None, inputs: jax.Array) -> Arrays:
        del v
        return jax.grad(loss)(parameters, inputs)

    def with_linearize(count: int) -> Callable[..., Arrays]:
        def product(parameters: Arrays, v: Arrays, inputs: jax.Array) -> Arrays:
            z, push = jax.linearize(lambda p: network(p, inputs), parameters)
            pull = jax.linear_transpose(push, parameters)
            s = jax.nn.softmax(z)
            for _ in range(count):
                u = push(v)
                (v,) = pull((s * u - s * (s * u).sum(-1, keepdims=True)) / len(targets))
            return v

        return product

    def hessian_product(parameters: Arrays, v: Arrays, inputs: jax.Array) -> Arrays:
        return jax.jvp(lambda p: gradient(p, None, inputs), (parameters,), (v,))[1]

    def length(result: Any) -> float:
        return float(jnp.sqrt(sum(jnp.vdot(x, x) for x in jax.tree.leaves(result))))

    def measure(method: str, product: str, count: int, function: Callable[..., Arrays]) -> Measure:
        def trace() -> Callable[[], Any]:
            lowered = jax.jit(function).lower(parameters, vector, inputs)
            compiled: list[Any] = []

            def call() -> Any:
                if not compiled:
                    compiled.append(lowered.compile())
                return jax.block_until_ready(compiled[0](parameters, vector, inputs))

            return call

        return Measure(method, product, count, trace, length)

    return [
        measure(OWN, GRADIENT, 1, gradient),
        measure(LINEARIZE, GAUSS_NEWTON, 1, with_linearize(1)),
        measure(LINEARIZE, GAUSS_NEWTON, 3, with_linearize(3)),
        measure(FORWARD_OVER_REVERSE, HESSIAN, 1, hessian_product),
    ]
