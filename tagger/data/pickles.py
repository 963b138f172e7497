"""The pickles of CIFAR-10's Python version, read without running anything they name.

A pickle is a program: it may import any function and call it. This reader resolves the three names that a pickled
NumPy array needs, and these to stand-ins of our own that only keep what they are given, so that not even NumPy's own
unpickling, which trusts its input, runs. Every other name ends the reading. What comes out is plain values and bytes,
which are checked before they become an array.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from tagger.errors import SourceError
from tagger.images import UInt8Array


class _Array:
    """Stands in for numpy.ndarray: keeps the state it would be rebuilt from."""

    state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state


class _Dtype:
    """Stands in for numpy.dtype: keeps its code, `u1` for bytes."""

    def __init__(self, code: Any = "", *flags: Any) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Ignore byte order and fields: a byte has none."""


def _reconstruct(*ignored: Any) -> _Array:
    return _Array()


_STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}


class _Reader(pickle.Unpickler):
    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")  # written by Python 2, whose text is bytes
        self._name = name

    def find_class(self, module: str, name: str) -> Any:
        """Resolve a name the pickle asks for; raises SourceError for all but a few."""
        if (module, name) not in _STAND_INS:
            raise SourceError(
                f"{self._name}: asks for {module}.{name}, which no CIFAR-10 batch needs and which was not run; "
                "get the archive from https://www.cs.toronto.edu/~kriz/cifar.html"
            )
        return _STAND_INS[module, name]


def read_dict(content: bytes, name: str) -> dict[str, Any]:
    """Return the pickled dict with its keys as text and its arrays as (N, M) uint8; raises SourceError naming it."""
    try:
        found = _Reader(content, name).load()
        return {text(key): _array(value) if isinstance(value, _Array) else value for key, value in found.items()}
    except SourceError:
        raise
    except Exception as error:  # a broken pickle can raise anything
        raise SourceError(f"{name}: is not a CIFAR-10 batch ({type(error).__name__}: {error})") from error


def text(value: Any) -> str:
    """Return text that Python 2 may have written as bytes."""
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _array(array: _Array) -> UInt8Array:
    _, shape, dtype, column_major, raw = array.state
    if dtype.code not in ("u1", "uint8"):
        raise ValueError(f"an array of {dtype.code}, not of bytes")
    order: Any = "F" if column_major else "C"
    return np.frombuffer(raw, dtype=np.uint8).reshape(shape, order=order)
