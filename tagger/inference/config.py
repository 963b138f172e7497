"""Options of inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tagger import options
from tagger.checkpoint.info import ModelInfo, fingerprint
from tagger.images import MAX_PIXELS
from tagger.inference.batch import DECODE_TIMEOUT, Limits
from tagger.inference.engines.choice import Choice, EngineName, Precision
from tagger.inference.selector import TagSelector
from tagger.options import FORM, Device, Option
from tagger.storage import READ_TIMEOUT


@dataclass(frozen=True)
class ModelConfig:
    """Options for running a model and selecting tags; raises UsageError for invalid values."""

    __pydantic_config__ = FORM

    top_k: Annotated[int, Option("Candidates per image, whatever the threshold.", ge=1)] = 5
    threshold: Annotated[
        float | None, Option("One threshold for every tag [default: the model's own].", ge=0, le=1)
    ] = None
    batch_size: Annotated[int | None, Option("Images per model call [default: chosen by the engine].", ge=1)] = None
    device: Device = "auto"
    engine: Annotated[
        EngineName,
        Option("Inference engine; torch is compiled PyTorch. auto: the fastest that agrees with eager PyTorch."),
    ] = "auto"
    precision: Annotated[
        Precision,
        Option(
            "Precision. -checked: score uncertain images again in fp32. auto: fp32, or a faster one that was measured "
            "to agree."
        ),
    ] = "auto"
    embeddings: Annotated[bool, Option("Store the feature vector of each image.")] = False
    tag_unknown: Annotated[bool, Option("Also tag unknown images: those unlike the training images.")] = False
    max_pixels: Annotated[int, Option("Maximum pixels per image; larger images get the status too_large.", ge=1)] = (
        MAX_PIXELS
    )
    truncated: Annotated[
        Literal["tag", "fail"],
        Option("Truncated files: tag what decodes (status truncated), or fail (status corrupt)."),
    ] = "tag"
    read_timeout: Annotated[
        float, Option("Timeout of a remote read in seconds; the file then gets the status unreadable.", gt=0)
    ] = READ_TIMEOUT
    decode_timeout: Annotated[
        float, Option("Timeout of decoding a file in seconds; the file then gets the status failed.", gt=0)
    ] = DECODE_TIMEOUT

    def __post_init__(self) -> None:
        options.check(self)

    @property
    def choice(self) -> Choice:
        """Return device, engine and precision."""
        return Choice(self.device, self.engine, self.precision)

    @property
    def limits(self) -> Limits:
        """Return the limits on one file."""
        return Limits(self.max_pixels, self.truncated == "tag", self.read_timeout, self.decode_timeout)

    def thresholds(self, model: ModelInfo) -> tuple[float, ...] | None:
        """Return a threshold per label; None means the best tag alone."""
        if self.threshold is not None:
            return (self.threshold,) * len(model.label_names)
        if model.thresholds is not None:
            return model.thresholds
        return None if model.task == "multiclass" else (0.5,) * len(model.label_names)

    def selector(self, model: ModelInfo) -> TagSelector:
        """Return the selector that converts scores to columns of a row."""
        return TagSelector(model, self.top_k, self.thresholds(model), self.embeddings, self.tag_unknown)

    def settings_id(self, model: ModelInfo) -> str:
        """Return a hash of everything except the model that affects the content of a row."""
        top_k = min(self.top_k, len(model.label_names))
        named = [self.choice.named] if self.choice.named else []
        named += ["truncated fails"] if self.truncated == "fail" else []
        named += ["unknown tagged"] if self.tag_unknown and model.statistics else []
        return fingerprint([top_k, self.thresholds(model), self.embeddings, self.max_pixels, *named])
