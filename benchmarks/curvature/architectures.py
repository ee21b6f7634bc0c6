"""The networks for the frameworks other than Keras, in terms of their primitives."""

from __future__ import annotations

from typing import Any

from benchmarks.curvature.workloads import BLOCKS


def outputs(network: str, ops: Any, p: Any, x: Any) -> Any:
    """Returns a network's logits, [N, classes].

    Args:
      network: The network's name.
      ops: The framework's primitives: `conv`, `relu`, `pool`, `flatten`, `batch_norm`, `mean`,
        `embed`, `layer_norm`, `attention`, `gelu`.
      p: The parameters by name.
      x: The images or words.

    Returns:
      The logits.
    """
    return {"convnet": _convnet, "resnet20": _resnet20, "transformer": _transformer}[network](
        ops, p, x
    )


def _dense(p: dict[str, Any], name: str, x: Any) -> Any:
    return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]


def _convnet(ops: Any, p: dict[str, Any], x: Any) -> Any:
    for name in ("conv1", "conv2"):
        x = ops.conv(x, p[f"{name}/kernel"], 1, 2, p[f"{name}/bias"])
        x = ops.pool(ops.relu(x))
    x = ops.flatten(x)
    for name in ("dense1", "dense2"):
        x = ops.relu(_dense(p, name, x))
    return _dense(p, "dense3", x)


def _resnet20(ops: Any, p: dict[str, Any], x: Any) -> Any:
    def normalized(name: str, x: Any) -> Any:
        return ops.relu(ops.batch_norm(x, p[f"{name}/gamma"], p[f"{name}/beta"]))

    x = ops.conv(x, p["initial_conv/kernel"], 1, 1)
    for stage in range(3):
        for block in range(3):
            name = f"stage{stage + 1}_block{block + 1}_"
            stride = 2 if stage and block == 0 else 1
            h = normalized(f"{name}1_norm", x)
            if block == 0:
                x = ops.conv(h, p[f"{name}shortcut_conv/kernel"], stride, 0)
            h = ops.conv(h, p[f"{name}1_conv/kernel"], stride, 1)
            h = ops.conv(normalized(f"{name}2_norm", h), p[f"{name}2_conv/kernel"], 1, 1)
            x = h + x
    return _dense(p, "final_dense", ops.mean(normalized("final_norm", x)))


def _transformer(ops: Any, p: dict[str, Any], x: Any) -> Any:
    def normalized(name: str, x: Any) -> Any:
        return ops.layer_norm(x, p[f"{name}/gamma"], p[f"{name}/beta"])

    x = ops.embed(p["words/embeddings"], x) + p["places/values"]
    for block in range(BLOCKS):
        name = f"block{block + 1}_"
        h = normalized(f"{name}norm1", x)
        heads = [
            ops.einsum("btc,chd->bhtd", h, p[f"{name}attention/{role}/kernel"])
            + p[f"{name}attention/{role}/bias"][:, None]
            for role in ("query", "key", "value")
        ]
        mixed = ops.attention(*heads)
        out = f"{name}attention/attention_output"
        x = x + ops.einsum("bhtd,hdc->btc", mixed, p[f"{out}/kernel"]) + p[f"{out}/bias"]
        h = ops.gelu(_dense(p, f"{name}dense1", normalized(f"{name}norm2", x)))
        x = x + _dense(p, f"{name}dense2", h)
    x = _dense(p, "logits", normalized("final_norm", x))
    return x.reshape(-1, x.shape[-1])
