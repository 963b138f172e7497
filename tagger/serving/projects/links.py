"""Signed links to files, which need no key and expire, like those of a cloud store."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time

from tagger.serving.errors import Refused

SECONDS = 3600.0
PATH = "/customvision/files"


class Links:
    """Links signed with a secret of this process; links of an earlier process are invalid."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds, self._secret = seconds, secrets.token_bytes(32)

    def sign(self, base: str, project: str, kind: str, id: str) -> str:
        """Return a link to the file of a record."""
        expires = str(int(time.time() + self._seconds))
        signature = self._signature(project, kind, id, expires)
        return f"{base.rstrip('/')}{PATH}/{project}/{kind}/{id}?se={expires}&sig={signature}"

    def check(self, project: str, kind: str, id: str, expires: str, signature: str) -> None:
        """Raise Refused for a link that was not signed here or has expired."""
        expected = self._signature(project, kind, id, expires)
        if not hmac.compare_digest(expected.encode(), signature.encode()) or float(expires) < time.time():
            raise Refused(403, "AuthenticationFailed", "the link is not valid or has expired; request a new one")

    def _signature(self, *signed: str) -> str:
        return hmac.new(self._secret, "\n".join(signed).encode(), hashlib.sha256).hexdigest()
