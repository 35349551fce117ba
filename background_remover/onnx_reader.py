"""The network's weights out of an ONNX file, by the names that exporters leave in it."""

from __future__ import annotations

import io

import torch
from torch import Tensor

from briarmbg import HEADS


def read_onnx(data: bytes) -> dict[str, Tensor]:
    """The state dict in an ONNX file of this network, by the names of its initializers and Conv nodes.

    Exporters fold batch norm into the convolution before it; the norm then becomes the identity. Heads that
    an export with a single output has dropped become zero: they have no part in the first matte.

    Raises whatever the parser makes of a file that is none.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_model(io.BytesIO(data)).graph

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(numpy_helper.to_array(initializers[name]).copy())

    initializers = {item.name: item for item in graph.initializer}
    state = {name: tensor(name) for name in initializers if name.endswith((".weight", ".bias", "_mean", "_var"))}
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        named = next((name for name in node.input[1:2] if name.endswith(".weight")), None)
        layer = named.removesuffix(".weight") if named else node.name.strip("/").removesuffix("/Conv").replace("/", ".")
        weight, bias = (tensor(name) for name in node.input[1:3])
        state[f"{layer}.weight"], state[f"{layer}.bias"] = weight, bias
        norm = layer.removesuffix("conv_s1") + "bn_s1"
        if layer.endswith(".conv_s1") and f"{norm}.running_mean" not in state:
            _add_identity_norm(state, norm, len(bias))
    for head, features in HEADS.items():
        state.setdefault(f"{head}.weight", torch.zeros(1, features, 3, 3))
        state.setdefault(f"{head}.bias", torch.zeros(1))
    for name in [name for name in state if name.endswith(".running_mean")]:
        state.setdefault(name.replace("running_mean", "num_batches_tracked"), torch.tensor(0))
    return state


def _add_identity_norm(state: dict[str, Tensor], norm: str, channels: int) -> None:
    eps = torch.nn.BatchNorm2d(1).eps
    state[f"{norm}.weight"] = torch.full((channels,), 1 + eps).sqrt()
    state[f"{norm}.bias"] = torch.zeros(channels)
    state[f"{norm}.running_mean"] = torch.zeros(channels)
    state[f"{norm}.running_var"] = torch.ones(channels)
