"""Messages of libtiff, which would go to the terminal: the first error of a decode is part of the file's row."""

from __future__ import annotations

import contextlib
import ctypes
import threading

from PIL import _imaging

_Handler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
_MAX_LENGTH = 200
_messages = threading.local()


def _keep(module: bytes | None, form: bytes | None, arguments: int | None) -> None:
    """Keep the first message; libtiff calls this in the decoding thread, with a C format and its va_list."""
    if not message():
        text = ctypes.create_string_buffer(_MAX_LENGTH)
        ctypes.pythonapi.PyOS_vsnprintf(
            text, ctypes.c_size_t(_MAX_LENGTH), ctypes.c_char_p(form), ctypes.c_void_p(arguments)
        )
        _messages.first = text.value.decode("ascii", "backslashreplace")


_handler = _Handler(_keep)  # lives as long as libtiff may call it


def keep_messages() -> None:
    """Keep errors, and drop warnings, instead of printing them."""
    with contextlib.suppress(OSError, AttributeError):  # a Pillow that hides its libtiff
        library = ctypes.CDLL(_imaging.__file__)
        library.TIFFSetErrorHandler(_handler)
        library.TIFFSetWarningHandler(None)


def forget() -> None:
    """Drop the message of an earlier file."""
    _messages.first = ""


def message() -> str:
    """Return the first error since `forget()` in this thread, in brackets; empty if there was none."""
    first = getattr(_messages, "first", "")
    return f" ({first})" if first else ""
