"""The model card of a checkpoint: Markdown with Hugging Face front matter, from config.json and tagger.json."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import quote, unquote

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from tagger.checkpoint import markdown
from tagger.checkpoint.info import Json

MAX_ROWS = 60
"""Maximum number of rows of the table of tags."""
MAX_NAMES = 20
"""Maximum number of tags listed in the first paragraph."""
SPLITS = {"train": "train", "val": "validation", "test": "test"}


def render(name: str, config: Json, bundle: Json, plots: Mapping[str, str], parameters: int) -> str:
    """Return the README.md of a checkpoint folder; `plots` are title -> file."""
    split = "test" if "test" in bundle["metrics"] else "val"
    return _template().render(
        name=name,
        config=config,
        bundle=bundle,
        training=bundle["training"],
        calibration=bundle["calibration"],
        plots=plots,
        parameters=parameters,
        split=split,
        evaluation=bundle["metrics"][split],
        splits=SPLITS,
        headlines={each: headline(found) for each, found in bundle["metrics"].items() if isinstance(found, dict)},
        tags=tag_rows(bundle, split),
        max_rows=MAX_ROWS,
        max_names=MAX_NAMES,
        own=config["architecture"].startswith("tagger_"),
    )


def plots_of(text: str) -> dict[str, str]:
    """Return the plots in an existing card: title -> file."""
    return {_plain(title): unquote(file) for title, file in re.findall(r"^!\[(.*)\]\((plots/[^)]*)\)$", text, re.M)}


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def headline(evaluation: Json) -> str:
    """Return accuracy or mean average precision with its 95% interval."""
    if found := evaluation.get("accuracy"):
        low, high = found["interval"]
        return f"accuracy {found['accuracy']:.1%} (95% interval {low:.1%} to {high:.1%})"
    text = f"mean average precision {evaluation.get('mean_average_precision') or 0.0:.1%}"
    if interval := evaluation.get("mean_average_precision_interval"):
        return f"{text} (95% interval {interval[0]:.1%} to {interval[1]:.1%})"
    return text


def tag_rows(bundle: Json, split: str) -> list[Json]:
    """Return a row per tag; if there are too many, those with the most training images."""
    counts = bundle["training"].get("labels") or {}
    proofs = {each["tag"]: each for each in bundle["calibration"].get("tags", ())}
    rows = [
        {
            **found,
            **{each: counts.get(each, {}).get(found["tag"]) for each in SPLITS},
            "threshold": (bundle["thresholds"] or {}).get(found["tag"]),
            "proof": _proof(proofs.get(found["tag"])),
        }
        for found in bundle["metrics"][split]["tags"]
    ]
    if len(rows) > MAX_ROWS:
        rows.sort(key=lambda row: -(row["train"] or 0))
    return rows[:MAX_ROWS]


def _proof(proof: Json | None) -> str:
    """Return the text on whether a tag's threshold is proven."""
    if proof is None:
        return ""
    if proof["status"] == "too few" and proof["needed"] is not None:
        return f"too few: {proof['images']:,} of {proof['images'] + proof['needed']:,} validation images"
    return str(proof["status"])


def _share(share: float | None) -> str:
    return "–" if share is None or share != share else f"{share:.3f}"


def _count(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


@lru_cache
def _template() -> Template:
    loader = PackageLoader("tagger.checkpoint", "")
    made = Environment(loader=loader, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, autoescape=False)
    made.filters |= {
        "text": markdown.escape,
        "code": markdown.code,
        "share": _share,
        "count": _count,
        "duration": _duration,
        "shell": shlex.quote,
        "url": quote,
        "json": lambda value: json.dumps(value, ensure_ascii=False),
    }
    return made.get_template("card.md.jinja")
