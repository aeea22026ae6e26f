# SPDX-License-Identifier: Apache-2.0
"""The iroots_digits model: complex layers whose weights are 1, i, −1 and −i times a scale.

    python -m models.iroots_digits             # prints the test accuracy of its file
    python -m models.iroots_digits other.onnx  # of another plain ONNX file with these names

A float file, as training writes it (iFairy). Data, names and accuracy are those of models.digits.
"""

import sys
from pathlib import Path

from models.digits import accuracy
from models.files import FOLDER, open_session


def path() -> Path:
    """The path of the float model."""
    return FOLDER / "iroots_digits.onnx"


if __name__ == "__main__":
    model = Path(sys.argv[1]) if len(sys.argv) > 1 else path()
    print(f"{model}: test accuracy {accuracy(open_session(model)):.2f} %")
