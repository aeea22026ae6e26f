# SPDX-License-Identifier: Apache-2.0
"""The vit_digits model: a small vision transformer over the images of the digits model.

    python -m models.vit_digits             # prints the test accuracy of models/vit_digits.onnx
    python -m models.vit_digits other.onnx  # of another plain ONNX file with these names

Input `image` float32 [N, 1, 8, 8], pixel / 16; output `logits` float32 [N, 10]. The data, its
splits and the accuracy are those of models.digits.
"""

import sys
from pathlib import Path

from models.digits import accuracy
from models.files import FOLDER, open_session


def path() -> Path:
    """The path of the float model."""
    return FOLDER / "vit_digits.onnx"


if __name__ == "__main__":
    model = Path(sys.argv[1]) if len(sys.argv) > 1 else path()
    print(f"{model}: test accuracy {accuracy(open_session(model)):.2f} %")
