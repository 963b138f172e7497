"""Normalisation of pixels for networks trained from scratch, computed on the training images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from tagger import storage
from tagger.errors import SourceError, UsageError
from tagger.images import Preprocessing, UInt8Array

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Three = tuple[float, float, float]

_MEAN_FILE = "mean-file:"


@dataclass(frozen=True, eq=False)
class Normalisation:
    """Network input is (pixels / 255 - mean) / std - offset.

    `mean` and `std`, one per channel, are those of timm's pretrained_cfg; the offset belongs to the network.
    """

    name: str
    mean: Three = (0.0, 0.0, 0.0)
    std: Three = (1.0, 1.0, 1.0)
    offset: Float32Array | None = None
    """(3, H, W)"""

    def preprocessing(self, side: int) -> Preprocessing:
        """Return the preprocessing of a checkpoint: whole images of this size."""
        return Preprocessing(size=(side, side), crop_pct=1.0, mean=self.mean, std=self.std)


def compute(name: str, train: UInt8Array) -> Normalisation:
    """Compute a normalisation from the pixels of the training split alone, (N, H, W, 3) uint8.

    All but `none` scale to [0, 1]. Raises UsageError for an unknown name, SourceError for a mean file that does not
    fit; see NAMES.
    """
    if name.startswith(_MEAN_FILE):
        uri = storage.absolute_file(name.removeprefix(_MEAN_FILE))
        if not storage.exists(uri):
            raise SourceError(f"--normalisation {name}: no such file")
        return Normalisation(name, offset=read_mean_file(uri, (train.shape[1], train.shape[2])))
    if name not in _COMPUTED:
        raise UsageError(f"--normalisation {name} is unknown; choose one of {', '.join(NAMES)}")
    return _COMPUTED[name](train)


def _standardise(train: UInt8Array) -> Normalisation:
    mean, square = _moments(train)
    std = np.sqrt(np.maximum(square - mean**2, 0))
    # a constant channel is only centred, since its standard deviation is zero
    return Normalisation("standardise", _three(mean), _three(np.where(std > 0, std, 1)))


def _single_mean(train: UInt8Array) -> Normalisation:
    return Normalisation("single-mean", _three(np.full(3, _moments(train)[0].mean())))


def _pixel_mean(train: UInt8Array) -> Normalisation:
    mean = train.mean(axis=0, dtype=np.float64) / 255
    return Normalisation("pixel-mean", offset=mean.transpose(2, 0, 1).astype(np.float32))


_COMPUTED: dict[str, Callable[[UInt8Array], Normalisation]] = {
    "none": lambda train: Normalisation("none", std=(1 / 255, 1 / 255, 1 / 255)),
    "scale": lambda train: Normalisation("scale"),
    "mean": lambda train: Normalisation("mean", _three(_moments(train)[0])),
    "standardise": _standardise,
    "single-mean": _single_mean,
    "pixel-mean": _pixel_mean,
}
NAMES = (*_COMPUTED, f"{_MEAN_FILE}PATH")
"""none: 0 to 255; scale: 0 to 1; mean and standardise: per channel; single-mean: one value; pixel-mean: an image."""


def read_mean_file(uri: str, size: tuple[int, int]) -> Float32Array:
    """Read a CNTK mean file, an OpenCV XML, as (3, H, W) float32 in [0, 1]; `size` is (height, width) of the images.

    The numbers are taken as planes of rows, red first, 0 to 255, which is how CNTK's CIFAR-10 script writes them.
    CNTK's own reader takes the same numbers as interleaved pixels, subtracts them from a blue-green-red image, and
    does nothing at all when the sizes differ; to repeat a result of it, train with another normalisation.
    Raises SourceError for another size, or if it is not a mean file.
    """
    fields = _fields(uri)
    try:
        channels, height, width = (int(fields[key]) for key in ("Channel", "Row", "Col"))
        values = np.array(fields["data"].split(), dtype=np.float64)
    except (KeyError, ValueError) as error:
        raise SourceError(
            f"{uri}: is not a CNTK mean file ({error}); expected the elements Channel, Row, Col and data"
        ) from error
    if (channels, height, width) != (3, *size):
        raise SourceError(
            f"{uri}: has the mean of {channels}x{height}x{width} images (channels, height, width), "
            f"but the training images are 3x{size[0]}x{size[1]}; compute one for them, or choose pixel-mean"
        )
    if len(values) != channels * height * width or not np.isfinite(values).all():
        raise SourceError(
            f"{uri}: {len(values)} numbers for {channels}x{height}x{width} pixels, or some are not finite"
        )
    return (values.reshape(channels, height, width) / 255).astype(np.float32)


def subtracts_image(name: str) -> bool:
    """Return whether a normalisation has an offset."""
    return name == "pixel-mean" or name.startswith(_MEAN_FILE)


def identity(name: str) -> str:
    """Return a name that identifies the normalisation; a mean file is identified by its content."""
    if not name.startswith(_MEAN_FILE):
        return name
    return hashlib.sha256(storage.read_bytes(storage.absolute_file(name.removeprefix(_MEAN_FILE)))).hexdigest()


class _Builder(ElementTree.TreeBuilder):
    """Tree builder for XML documents that rejects DTDs and entities."""

    def doctype(self, *declaration: str | None) -> None:
        """Reject a DTD, whose entities can fill the memory or read other files."""
        raise ValueError("it declares a DTD or entities, which mean files do not have")


def _fields(uri: str) -> dict[str, str]:
    """Return the text of each element of an XML document; raises SourceError if it is invalid or has a DTD."""
    parser = ElementTree.XMLParser(target=_Builder())
    try:
        parser.feed(storage.read_bytes(uri))
        return {element.tag: element.text or "" for element in parser.close().iter()}
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the latter two: its encoding, or a DTD
        raise SourceError(f"{uri}: not valid XML ({error})") from error


def _moments(train: UInt8Array) -> tuple[Float64Array, Float64Array]:
    """Return the mean and the mean square of each channel, of pixels in [0, 1]: (3,) each."""
    counts = np.stack([np.bincount(train[..., channel].ravel(), minlength=256) for channel in range(3)])
    levels = np.arange(256) / 255
    return counts @ levels / counts[0].sum(), counts @ levels**2 / counts[0].sum()


def _three(values: Float64Array) -> Three:
    red, green, blue = map(float, values)
    return red, green, blue
