"""The network with its weights as ONNX, for other engines: `python -m background_remover.export net.onnx`."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from background_remover.decoding import SIDE
from background_remover.downloads import WeightsError
from background_remover.state_dicts import build_network
from background_remover.weights import Weights, load


def export_onnx(path: Path, source: str | None = None) -> Weights:
    """Write the network with its weights as ONNX; gives the weights that it holds.

    Input "image", batch x 3 x 1024 x 1024 in -0.5..0.5; output "matte", batch x 1 x 1024 x 1024 in 0..1; any batch.
    Raises WeightsError.
    """
    weights = load(source)
    net = build_network(weights.state_dict, weights.name).eval()
    net.forward = net.matte  # type: ignore[assignment]
    torch.onnx.export(
        net,
        (torch.zeros(2, 3, SIDE, SIDE),),
        path,
        input_names=["image"],
        output_names=["matte"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        dynamo=True,
        verbose=False,
    )
    return weights


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Export the network with its weights.")
    parser.add_argument("path", type=Path, help="the .onnx file to write")
    parser.add_argument("source", nargs="?", help="weights, as RMBG_WEIGHTS names them")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        export_onnx(arguments.path, arguments.source)
    except WeightsError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
