# SPDX-License-Identifier: Apache-2.0
"""Compares the zoo with torch's own exports. Needs torch, torchvision and transformers.

    python -m models.zoo.check_torch             # all, minutes
    python -m models.zoo.check_torch swin llama

Prints a table for docs/zoo.md: weights and products must agree, and it fails where they do not;
the counts of other ops are shown where they differ.
"""

import argparse
import logging
import math
import sys
import warnings
from collections import Counter

import onnx
import onnx_ir as ir
import torch

from models.zoo import ZOO
from models.zoo.torch_modules import MODULES, torchvision_models

PRODUCTS = ("Conv", "ConvTranspose", "LSTM", "GRU", "Gemm", "MatMul")
ROW = "| {} | {} | {} | {} |"
# Masks and tables of constants are weights to the count; their share is below this.
WEIGHT_TOLERANCE = 0.002


def exported(name: str) -> onnx.ModelProto:
    """torch's export of the counterpart, in evaluation mode."""
    torch.manual_seed(0)
    module, inputs = MODULES[name]()
    for parameter in module.parameters():
        if parameter.dim() == 1:  # the exporter drops a bias of zeros
            torch.nn.init.normal_(parameter.data, 1.0, 0.1)
    program = torch.onnx.export(module.eval(), inputs, dynamo=True, opset_version=20, verbose=False)
    assert program is not None
    return program.model_proto


def ops(model: onnx.ModelProto) -> Counter[str]:
    """Nodes by op type."""
    return Counter(node.op_type for node in model.graph.node)


def weights(model: onnx.ModelProto) -> int:
    """Elements of the floats of two to four dimensions; a mask of windows has five."""
    return sum(
        math.prod(t.dims)
        for t in model.graph.initializer
        if t.data_type == onnx.TensorProto.FLOAT and 1 < len(t.dims) < 5
    )


def compare(name: str) -> bool:
    """Print the row of one model; whether its weights and products agree."""
    zoo, torch_model = ir.to_proto(ZOO[name].build()), exported(name)
    ours, theirs = ops(zoo), ops(torch_model)
    counts, same = (weights(zoo), weights(torch_model)), True
    if abs(counts[0] - counts[1]) > WEIGHT_TOLERANCE * counts[1]:
        same = False
    products = []
    for op in PRODUCTS:
        if ours[op] or theirs[op]:
            products.append(f"{ours[op]} {op}")
            if ours[op] != theirs[op]:
                products[-1] += f" (torch {theirs[op]})"
                same = False
    others = sorted((set(ours) | set(theirs)) - set(PRODUCTS))
    differ = [f"{op} {ours[op]}/{theirs[op]}" for op in others if ours[op] != theirs[op]]
    size = f"{counts[0]:,} / {counts[1]:,}"
    print(ROW.format(name, size, ", ".join(products), ", ".join(differ) or "none"), flush=True)
    return same


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Compares the zoo with torch's own exports.")
    parser.add_argument("names", nargs="*", help="models of the zoo; all when none is given")
    names = parser.parse_args().names or list(ZOO)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torchvision_models()
    print(ROW.format("model", "weights, zoo / torch", "products", "other ops that differ"))
    print(ROW.format("---", "---", "---", "---"))
    agree = [compare(name) for name in names]
    if not all(agree):
        sys.exit("weights or products differ")


if __name__ == "__main__":
    main()
