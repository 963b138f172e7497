"""Links to images that need no key and expire, as those of a cloud store."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time

from tagger.serve.errors import Refused

SECONDS = 3600.0
PATH = "/customvision/images"


class Links:
    """Links signed with a secret of this process: those of an earlier one have expired."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds, self._secret = seconds, secrets.token_bytes(32)

    def sign(self, base: str, project: str, image: str) -> str:
        """Return a link to an image."""
        expires = str(int(time.time() + self._seconds))
        return f"{base.rstrip('/')}{PATH}/{project}/{image}?se={expires}&sig={self._signature(project, image, expires)}"

    def check(self, project: str, image: str, expires: str, signature: str) -> None:
        """Raise Refused for a link that was not signed here or has expired."""
        expected = self._signature(project, image, expires)
        if not hmac.compare_digest(expected.encode(), signature.encode()) or float(expires) < time.time():
            raise Refused(403, "AuthenticationFailed", "the link is not valid or has expired; list the image again")

    def _signature(self, project: str, image: str, expires: str) -> str:
        text = f"{project}\n{image}\n{expires}".encode()
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()
