"""From a file of weights, of any kind, to its tensors, and from them to the network: what needs torch of `weights`."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from background_remover.downloads import WeightsError
from briarmbg import HEADS, BriaRMBG

logger = logging.getLogger(__name__)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors in a file whose hash has been checked, or that the user named; floating ones in fp32.

    What is neither safetensors nor ONNX by its name is taken for a pickle. Raises WeightsError.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".safetensors":
            state_dict = safetensors.torch.load_file(path)
        elif suffix == ".onnx":
            state_dict = read_onnx(path.read_bytes())
        else:
            state_dict = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each parser has exceptions of its own, and what they say is not for users
        logger.debug("cannot read %s", path, exc_info=True)
        raise WeightsError(f"'{path.name}' is damaged or holds more than plain tensors: get the file again.") from error
    if not isinstance(state_dict, dict) or not all(isinstance(value, Tensor) for value in state_dict.values()):
        raise WeightsError(f"'{path.name}' is not a state dict: save it with torch.save(net.state_dict(), path).")
    return {key: value.float() if value.is_floating_point() else value for key, value in state_dict.items()}


def build_network(state_dict: dict[str, Tensor], name: str) -> BriaRMBG:
    """The network with these weights, of a name. Raises WeightsError if they are not this network's."""
    with torch.device("meta"):  # the weights are all there, so nothing needs initialising
        net = BriaRMBG()
    try:
        net.load_state_dict(state_dict, assign=True)
    except RuntimeError as error:
        raise WeightsError(
            f"The weights in '{name}' are not those of RMBG 1.4 or IS-Net: choose a file of this network."
        ) from error
    return net


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


def convert(onnx_file: bytes) -> bytes:
    """A safetensors file with the state dict that is in an ONNX file."""
    return safetensors.torch.save(read_onnx(onnx_file))


def _add_identity_norm(state: dict[str, Tensor], norm: str, channels: int) -> None:
    eps = torch.nn.BatchNorm2d(1).eps
    state[f"{norm}.weight"] = torch.full((channels,), 1 + eps).sqrt()
    state[f"{norm}.bias"] = torch.zeros(channels)
    state[f"{norm}.running_mean"] = torch.zeros(channels)
    state[f"{norm}.running_var"] = torch.ones(channels)
