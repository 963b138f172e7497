"""`tagger suggest`: images of a results table to label next, or of a labelled dataset to check."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from tagger import options, storage
from tagger.data import manifest
from tagger.errors import UsageError
from tagger.storage import StrPath
from tagger.tagging.suggest import suggestions, uncertain
from tagger.tagging.suggest.config import SuggestConfig
from tagger.tagging.suggest.suggestions import Suggestions

_PART = re.compile(r"part-\d{8}-.*\.parquet")
_OF_RESULTS, _OF_DATASET = {"model"}, {"backbone", "multilabel"}
"""Options that have an effect for one kind of source only."""


def suggest(
    source: StrPath,
    out: StrPath | None = None,
    config: SuggestConfig | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Suggestions:
    """Suggest images of a results table to label next, or images of a labelled dataset whose labels look wrong.

    With `out` they are also written, as Parquet or as tasks for Label Studio. Raises SourceError, UsageError,
    TableError or WriteError.
    """
    config, source = config or SuggestConfig(), os.fspath(source)
    is_results = _is_results(source)
    _refuse_unused(source, config, is_results)
    if out is not None:
        suggestions.check_place(out, config.format)
    if is_results:
        found = uncertain.uncertain(source, config)
    else:
        from tagger.tagging.suggest import suspects  # it imports torch

        found = suspects.suspects(source, config, on_progress)
    if out is not None:
        suggestions.write(found, out, config.format)
    return found


def _is_results(source: str) -> bool:
    """Return whether a source is a folder that `tagger tag` writes to."""
    if manifest.list_suffix(source) or manifest.is_glob(source):
        return False
    return any(_PART.fullmatch(name) for name in storage.names_in(storage.absolute(source)) or ())


def _refuse_unused(source: str, config: SuggestConfig, is_results: bool) -> None:
    """Raise UsageError for an option that has no effect."""
    unused = options.given(config) & (_OF_DATASET if is_results else _OF_RESULTS)
    if unused:
        kind = "a results table" if is_results else "a dataset"
        raise UsageError(f"--{options.flag(min(unused))} has no effect: {source} is {kind}; omit it")
