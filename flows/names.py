"""Names of flow runs, and links in artifacts."""

from urllib.parse import quote

from prefect.runtime import flow_run

from tagger import storage
from tagger.redaction import public_uri, visible

LENGTH = 60
"""Maximum characters of a source in a name."""


def run_name() -> str:
    """Return the name of the current flow run: the flow, its source and its models."""
    given = flow_run.parameters
    subject = next(given[name] for name in ("source", "dataset", "results") if name in given)
    models = given.get("model") or []
    named = ", ".join(map(_last, [models] if isinstance(models, str) else models))
    return visible(f"{flow_run.flow_name} {_short(subject)}" + (f" with {named}" if named else ""))


def _last(model: str) -> str:
    return public_uri(model).rstrip("/").rpartition("/")[2]


def _short(subject: str) -> str:
    """Return the end of a long name."""
    public = public_uri(subject)
    return public if len(public) <= LENGTH else "…" + public[1 - LENGTH :]


def links(**places: str) -> str:
    """Return Markdown links to named files and folders. For local files, browsers only follow them when pasted."""
    return ", ".join(f"{name}: {_link(url)}" for name, url in places.items())


def _link(url: str) -> str:
    public = public_uri(storage.absolute(url))
    target = public if storage.is_remote(public) else "file://" + quote(public)
    return f"[{visible(public)}]({target})"
