"""Put tags on a mountain of images: folder or bucket in, Parquet out, every night."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tagger.errors import TaggerError
    from tagger.exporting import export
    from tagger.ingesting import Ingested, ingest
    from tagger.manifest import Manifest
    from tagger.results import query, read_results
    from tagger.tagging import Summary, TagConfig, predict, tag
    from tagger.training import TrainConfig, evaluate, train, tune

_HOMES = {
    "Ingested": "tagger.ingesting",
    "Manifest": "tagger.manifest",
    "Summary": "tagger.tagging",
    "TagConfig": "tagger.tagging",
    "TaggerError": "tagger.errors",
    "TrainConfig": "tagger.training",
    "evaluate": "tagger.training",
    "export": "tagger.exporting",
    "ingest": "tagger.ingesting",
    "predict": "tagger.tagging",
    "query": "tagger.results",
    "read_results": "tagger.results",
    "tag": "tagger.tagging",
    "train": "tagger.training",
    "tune": "tagger.training",
}

__all__ = [
    "Ingested", "Manifest", "Summary", "TagConfig", "TaggerError", "TrainConfig", "evaluate", "export", "ingest",
    "predict", "query", "read_results", "tag", "train", "tune",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import tagger` stays instant."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tagger' has no attribute {name!r}")
