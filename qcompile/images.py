# SPDX-License-Identifier: Apache-2.0
"""ImageFolder: a folder of pictures as samples for a model with one image input.

A picture is cut to the wanted proportions around its middle, resized, and becomes
`(pixel · scale − mean) / std`, channel by channel. Refuses models with several inputs and inputs
that are no images; files that are no pictures are named, all at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qcompile.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
LAYOUTS = ("nchw", "nhwc")
CHANNELS = ("rgb", "bgr")


@dataclass(frozen=True)
class ImageFolder:
    """Calibration data for `qcompile.compile`.

    mean, std: one number, or one a channel, in the order in which the model takes the channels.
    scale: 1/255 for float inputs, 1 for uint8 ones. size: (height, width); default the model's own,
    else that of each picture. A model with one channel gets grey pictures.
    """

    folder: str | Path
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float | None = None
    size: tuple[int, int] | None = None
    layout: str | None = None
    channels: str = "rgb"

    def check(self) -> None:
        """Every problem that needs no model; InputError."""
        problems = []
        if not Path(self.folder).is_dir():
            problems.append(f"images {self.folder}: no such folder")
        elif not self.files():
            problems.append(f"images {self.folder}: the folder has no {', '.join(SUFFIXES)} file")
        if self.layout is not None and self.layout not in LAYOUTS:
            problems.append(f'image layout "{self.layout}": known: {", ".join(LAYOUTS)}')
        if self.channels not in CHANNELS:
            problems.append(f'image channels "{self.channels}": known: {", ".join(CHANNELS)}')
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, 3) or not np.isfinite(values).all():
                problems.append(f"image {name} {_words(values)}: 1 or 3 finite numbers")
        if not all(self.std):
            problems.append(f"image std {_words(self.std)}: 0 is no divisor")
        if self.scale is not None and not (np.isfinite(self.scale) and self.scale > 0):
            problems.append(f"image scale {self.scale:g}: a number above 0")
        if self.size is not None and min(self.size) < 1:
            problems.append(f"image size {_shape(self.size)}: at least 1x1")
        try:
            import PIL  # noqa: F401
        except ImportError:
            problems.append("images need pillow: pip install 'qcompile[images]'")
        if problems:
            raise InputError("\n".join(problems))

    def files(self) -> list[Path]:
        """The pictures, by name."""
        return sorted(p for p in Path(self.folder).iterdir() if p.suffix.lower() in SUFFIXES)

    def feeds(self, inputs: list[ir.Value], limit: int) -> Iterator[dict[str, NDArray]]:
        """Samples of at most `limit` pictures; one feed where all have one size."""
        self.check()
        layout, channels, size = self._fitted(inputs)
        images, problems = [], []
        for path in self.files()[:limit]:
            try:
                images.append(self._read(path, channels, size))
            except Exception as error:  # pillow raises many types for damaged files
                problems.append(f"{path}: no readable picture: {error}")
        if problems:
            raise InputError("\n".join(problems))
        name = str(inputs[0].name)
        is_float = inputs[0].dtype is None or inputs[0].dtype.is_floating_point()
        ready = [self._normalised(image, is_float=is_float) for image in images]
        if layout == "nchw":
            ready = [image.transpose(2, 0, 1) for image in ready]
        if len({image.shape for image in ready}) == 1:
            yield {name: np.stack(ready)}
        else:
            yield from ({name: image[None]} for image in ready)

    def _fitted(self, inputs: list[ir.Value]) -> tuple[str, int, tuple[int, int] | None]:
        """Layout, channels and size for the model's input."""
        shapes = [None if v.shape is None else list(v.shape) for v in inputs]
        if len(inputs) != 1 or shapes[0] is None or len(shapes[0]) != 4:
            listed = ", ".join(f'"{v.name}" {v.shape}' for v in inputs)
            raise InputError(
                f"images fit a model with one input of 4 dimensions; this one has {listed}: give "
                ".npz files or MODULE:FUNCTION"
            )
        dims = shapes[0]
        layout = self.layout or ("nhwc" if dims[3] in (1, 3) and dims[1] not in (1, 3) else "nchw")
        count = dims[1] if layout == "nchw" else dims[3]
        if isinstance(count, int) and count not in (1, 3):
            raise InputError(
                f'images have 1 or 3 channels; "{inputs[0].name}" {inputs[0].shape} has {count} as '
                f"{layout}: give --image-layout, or .npz files"
            )
        own = dims[2:4] if layout == "nchw" else dims[1:3]
        size = self.size
        if size is None and isinstance(own[0], int) and isinstance(own[1], int):
            size = own[0], own[1]
        return layout, count if isinstance(count, int) else 3, size

    def _read(self, path: Path, channels: int, size: tuple[int, int] | None) -> NDArray[np.uint8]:
        """Pixels [H, W, channels]."""
        from PIL import Image, ImageOps

        with Image.open(path) as opened:
            image: Any = ImageOps.exif_transpose(opened).convert("L" if channels == 1 else "RGB")
        if size is not None:
            image = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BILINEAR)
        pixels = np.asarray(image, np.uint8)
        if channels == 1:
            return pixels[..., None]
        return pixels[..., ::-1] if self.channels == "bgr" else pixels

    def _normalised(self, pixels: NDArray[np.uint8], *, is_float: bool) -> NDArray:
        changes = (self.mean, self.std) != ((0.0,), (1.0,)) or self.scale not in (None, 1)
        if not is_float:
            if changes:
                raise InputError(
                    "the model takes pixels as whole numbers: leave out image mean, std and scale"
                )
            return pixels
        if pixels.shape[2] == 1 and max(len(self.mean), len(self.std)) > 1:
            raise InputError("the model takes grey pictures: image mean and std are 1 number each")
        scale = np.float32(1 / 255 if self.scale is None else self.scale)
        centred = pixels.astype(np.float32) * scale - np.asarray(self.mean, np.float32)
        return centred / np.asarray(self.std, np.float32)


@dataclass(frozen=True)
class ImageFlags:
    """The command line's words for an ImageFolder; None where a flag was not given."""

    mean: str | None
    std: str | None
    scale: float | None
    size: str | None
    layout: str | None
    channels: str | None

    def source(self, text: str | None) -> str | ImageFolder | None:
        """The folder of `images:DIR`; other sources stay, and take no image flags."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        given = {name: value for name, value in given.items() if value is not None}
        if text is None or not text.startswith("images:"):
            if given:
                flags = ", ".join(f"--image-{name}" for name in given)
                raise InputError(f"{flags}: only --calibration-data images:DIR takes image flags")
            return text
        for name in ("mean", "std"):
            if name in given:
                given[name] = numbers(given[name], f"--image-{name}")
        if "size" in given:
            given["size"] = height_and_width(given["size"])
        return ImageFolder(text.removeprefix("images:"), **given)


def numbers(text: str, flag: str) -> tuple[float, ...]:
    """The numbers of "0.5,0.5,0.5"; InputError that names the flag.

    >>> numbers("104, 117,123", "--image-mean")
    (104.0, 117.0, 123.0)
    """
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise InputError(f"{flag} {text}: numbers with commas are needed") from None


def height_and_width(text: str) -> tuple[int, int]:
    """The size of "224x160", or "224" for a square.

    >>> height_and_width("224x160"), height_and_width("32")
    ((224, 160), (32, 32))
    """
    words = text.lower().split("x")
    if not 1 <= len(words) <= 2 or not all(w.isascii() and w.isdigit() for w in words):
        raise InputError(f"--image-size {text}: HEIGHTxWIDTH is needed")
    return int(words[0]), int(words[-1])


def _words(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _shape(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
