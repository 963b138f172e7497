"""Tag a source into a results table: plan, run the pipeline, commit part files."""

from tagger.tagging.config import TagConfig
from tagger.tagging.job import predict, tag
from tagger.tagging.summary import Summary

__all__ = ["Summary", "TagConfig", "predict", "tag"]
