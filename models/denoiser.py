# SPDX-License-Identifier: Apache-2.0
"""The denoiser model: predicts the noise in 8x8 images of digits, a DDPM (Ho et al. 2020).

    python -m models.denoiser             # prints the test error of models/denoiser.onnx
    python -m models.denoiser other.onnx  # of another plain ONNX file with these names

Inputs `x` float32 [N, 1, 8, 8] and `t` int64 [N], the time step, 0 … 99; output `noise` float32
[N, 1, 8, 8]. x = √ᾱ_t · image + √(1 − ᾱ_t) · noise, the images of the digits model in −1 … 1.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models import digits
from models.files import FOLDER, Session, open_session

STEPS = 100
TEST_COUNT = 32  # images a time step


def path() -> Path:
    """The path of the float model."""
    return FOLDER / "denoiser.onnx"


def signal_shares() -> NDArray[np.float64]:
    """ᾱ [STEPS] of a linear schedule of 1 − α from 0.001 to 0.2.

    Ten times that of Ho et al. 2020, section 4, which has 1000 steps.
    """
    return np.asarray(np.cumprod(1 - np.linspace(1e-3, 0.2, STEPS)))


def noised(
    images: NDArray[np.float32], noise: NDArray[np.float32], t: NDArray[np.int64]
) -> NDArray[np.float32]:
    """x of images in 0 … 1 and noise [N, 1, 8, 8] at the time steps t [N]."""
    share = signal_shares()[t].reshape(-1, 1, 1, 1)
    return np.asarray(np.sqrt(share) * (2 * images - 1) + np.sqrt(1 - share) * noise, np.float32)


def data(split: str, per_step: int, seed: int = 0) -> list[dict[str, NDArray]]:
    """For every time step a feed of `per_step` images of digits' split, with `noise` beside them.

    The images and the noise are drawn with the seed.
    """
    images, rng = digits.data(split)[0], np.random.default_rng(seed)
    feeds = []
    for step in range(STEPS):
        chosen = images[rng.integers(0, len(images), per_step)]
        noise = rng.standard_normal(chosen.shape, np.float32)
        t = np.full(per_step, step, np.int64)
        feeds.append({"x": noised(chosen, noise, t), "t": t, "noise": noise})
    return feeds


def calibration(per_step: int = 4) -> list[dict[str, NDArray]]:
    """Feeds of x and t from the training images, every time step among them."""
    feeds = data("train", per_step)
    return [{name: feed[name] for name in ("x", "t")} for feed in feeds]


def errors(session: Session) -> NDArray[np.float64]:
    """Mean squared error of the predicted noise for every time step [STEPS], on test images."""
    found = []
    for feed in data("test", TEST_COUNT, seed=1):
        (noise,) = session.run(["noise"], {"x": feed["x"], "t": feed["t"]})
        found.append(np.square(noise.astype(np.float64) - feed["noise"]).mean())
    return np.array(found)


if __name__ == "__main__":
    model = Path(sys.argv[1]) if len(sys.argv) > 1 else path()
    print(f"{model}: test error {errors(open_session(model)).mean():.4f}")
