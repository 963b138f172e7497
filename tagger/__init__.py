"""Batch image tagging: a folder or bucket in, Parquet out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tagger.data.decisions import read_labels
    from tagger.data.ingest import ingest
    from tagger.data.labels.source import Ingested
    from tagger.data.manifest import Manifest
    from tagger.errors import TaggerError
    from tagger.evaluation.evaluate import evaluate
    from tagger.inference.model import Model, load, predict
    from tagger.reporting.drift_report import write as drift
    from tagger.reporting.results_report import write as report
    from tagger.reviewing.config import ReviewConfig
    from tagger.reviewing.server import review
    from tagger.serving.config import ServeConfig
    from tagger.serving.server import serve
    from tagger.tagging.compact import compact
    from tagger.tagging.config import TagConfig
    from tagger.tagging.export import export
    from tagger.tagging.export_xmp import export_xmp
    from tagger.tagging.query import query
    from tagger.tagging.results import read_results
    from tagger.tagging.run import tag
    from tagger.tagging.suggest.config import SuggestConfig
    from tagger.tagging.suggest.run import suggest
    from tagger.tagging.summary import Summary
    from tagger.training.config import TrainConfig
    from tagger.training.train import train
    from tagger.training.tune import tune

_HOMES = {
    "Ingested": "tagger.data.labels.source",
    "Manifest": "tagger.data.manifest",
    "Model": "tagger.inference.model",
    "ReviewConfig": "tagger.reviewing.config",
    "ServeConfig": "tagger.serving.config",
    "SuggestConfig": "tagger.tagging.suggest.config",
    "Summary": "tagger.tagging.summary",
    "TagConfig": "tagger.tagging.config",
    "TaggerError": "tagger.errors",
    "TrainConfig": "tagger.training.config",
    "compact": "tagger.tagging.compact",
    "drift": "tagger.reporting.drift_report:write",
    "evaluate": "tagger.evaluation.evaluate",
    "export": "tagger.tagging.export",
    "export_xmp": "tagger.tagging.export_xmp",
    "ingest": "tagger.data.ingest",
    "load": "tagger.inference.model",
    "predict": "tagger.inference.model",
    "query": "tagger.tagging.query",
    "read_labels": "tagger.data.decisions",
    "read_results": "tagger.tagging.results",
    "report": "tagger.reporting.results_report:write",
    "review": "tagger.reviewing.server",
    "serve": "tagger.serving.server",
    "suggest": "tagger.tagging.suggest.run",
    "tag": "tagger.tagging.run",
    "train": "tagger.training.train",
    "tune": "tagger.training.tune",
}

__all__ = [
    "Ingested", "Manifest", "Model", "ReviewConfig", "ServeConfig", "SuggestConfig", "Summary", "TagConfig",
    "TaggerError", "TrainConfig", "compact", "drift", "evaluate", "export", "export_xmp", "ingest", "load",
    "predict", "query", "read_labels", "read_results", "report", "review", "serve", "suggest", "tag", "train",
    "tune",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name on first use, which keeps `import tagger` fast."""
    if name in _HOMES:
        module, _, function = _HOMES[name].partition(":")
        return getattr(import_module(module), function or name)
    raise AttributeError(f"module 'tagger' has no attribute {name!r}")
