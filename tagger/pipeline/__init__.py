"""Files in, scores out: read, decode and infer side by side, whoever wants the scores."""

from tagger.pipeline.ceilings import Ceilings, Meter
from tagger.pipeline.stages import LoadedModel, Row, bounded_map, readers_for, score_files

__all__ = ["Ceilings", "LoadedModel", "Meter", "Row", "bounded_map", "readers_for", "score_files"]
