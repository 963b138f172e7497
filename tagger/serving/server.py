"""The server process; it ends after the requests in progress are answered."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from tagger import storage
from tagger.inference.config import ModelConfig
from tagger.serving import listening
from tagger.serving.app import Service, create
from tagger.serving.config import ServeConfig
from tagger.training.config import TrainConfig


def serve(
    models: Sequence[str],
    config: ServeConfig | None = None,
    model_config: ModelConfig | None = None,
    train_config: TrainConfig | None = None,
    on_start: Callable[[str], None] = lambda url: None,
) -> None:
    """Load the models and serve until SIGTERM or SIGINT; `on_start` gets the URL. Raises TaggerError."""
    config = config or ServeConfig()
    held = storage.claimed(storage.absolute(config.projects)) if config.projects else contextlib.nullcontext()
    with listening.listen(config.host, config.port) as listener, held:
        app = create(Service(models, config, model_config or ModelConfig(), train_config or TrainConfig()))
        listening.run(app, listener, lambda: on_start(listening.url_of(listener)))
