"""Errors with an HTTP status, and a code and message in Custom Vision's format."""

from __future__ import annotations

from fastapi.responses import JSONResponse

from tagger.inference.pipeline import Row


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code

    def response(self) -> JSONResponse:
        """Return the body that Custom Vision's clients parse."""
        return JSONResponse({"code": self.code, "message": str(self)}, self.status)


_OF_STATUS = {
    "corrupt": (400, "BadRequestImageFormat"),
    "unsupported": (400, "BadRequestImageFormat"),
    "too_large": (400, "BadRequestImageDimensions"),
}
"""Status of a row without tags -> HTTP status and code."""


def of_row(row: Row) -> Refused:
    """Return the error of an image that could not be scored."""
    status, code = _OF_STATUS.get(row["status"], (500, "ErrorPrediction"))
    return Refused(status, code, f"{row['status']}: {row['error']}")
