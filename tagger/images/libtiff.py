"""Capture libtiff's messages, which it would print; the first error of an image becomes part of its error message."""

from __future__ import annotations

import contextlib
import ctypes
import threading

from PIL import _imaging

_Handler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
_MAX_LENGTH = 200
_messages = threading.local()


def _on_error(module: bytes | None, form: bytes | None, arguments: int | None) -> None:
    """Store the first message; libtiff calls this in the decoding thread, with a C format and its va_list."""
    if not message():
        text = ctypes.create_string_buffer(_MAX_LENGTH)
        ctypes.pythonapi.PyOS_vsnprintf(
            text, ctypes.c_size_t(_MAX_LENGTH), ctypes.c_char_p(form), ctypes.c_void_p(arguments)
        )
        _messages.first = text.value.decode("ascii", "backslashreplace")


_handler = _Handler(_on_error)  # global, because libtiff may call it at any time


def capture_messages() -> None:
    """Store errors and drop warnings, instead of printing them."""
    with contextlib.suppress(OSError, AttributeError):  # some builds of Pillow do not export libtiff's functions
        library = ctypes.CDLL(_imaging.__file__)
        library.TIFFSetErrorHandler(_handler)
        library.TIFFSetWarningHandler(None)


def forget() -> None:
    """Drop the message of an earlier file."""
    _messages.first = ""


def message() -> str:
    """Return the first error since `forget()` in this thread, in parentheses; empty if there was none."""
    first = getattr(_messages, "first", "")
    return f" ({first})" if first else ""
