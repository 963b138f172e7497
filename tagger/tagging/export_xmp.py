"""Write the latest tags of a results table into XMP sidecars, where photo programs read them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Literal, NamedTuple, TypeAlias

from tagger import storage
from tagger.data import sidecars
from tagger.errors import ImageError, SourceError, TooManyFailed, UsageError, WriteError
from tagger.images import embedded, xmp
from tagger.storage import StrPath
from tagger.tagging.config import SidecarConfig
from tagger.tagging.export import latest_tags

_WRITERS = 16
_SHOWN = 20
"""Maximum number of sidecars left alone that are listed."""

State: TypeAlias = Literal["written", "unchanged", "gone", "left_alone"]


class Sidecar(NamedTuple):
    """One sidecar and what happened to it."""

    uri: str
    state: State
    keywords: tuple[str, ...] = ()
    """The keywords that were added."""
    reason: str = ""
    """The reason why it was left alone."""


@dataclass(frozen=True)
class Sidecars:
    """The sidecars of a results table."""

    results: str
    dry_run: bool
    written: int
    unchanged: int
    """Sidecars that have all tags of their image, or had them until a person deleted some."""
    untagged: int
    """Images without a tag, or whose status is not ok."""
    gone: int
    """Images that no longer exist, or are inside an archive or behind an http(s) URL."""
    left_alone: list[str]
    """Sidecars that were not written, each with the reason."""

    def text(self) -> str:
        """Return the counts and the sidecars that were left alone, in lines."""
        verb = "would be written" if self.dry_run else "written"
        counts = {"up to date": self.unchanged, "left alone": len(self.left_alone)}
        images = {"without a tag": self.untagged, "gone, in an archive or behind a web address": self.gone}
        lines = [
            f"{self.written:,} sidecars {verb}" + "".join(f", {n:,} {name}" for name, n in counts.items() if n),
            *(f"images {name}: {n:,}" for name, n in images.items() if n),
            *(f"left alone: {line}" for line in self.left_alone[:_SHOWN]),
        ]
        more = len(self.left_alone) - _SHOWN
        return "\n".join([*lines, *([f"and {more:,} more; --json names all of them"] if more > 0 else [])])

    def check(self) -> None:
        """Raise TooManyFailed when every sidecar that had to be written was left alone."""
        if self.left_alone and not self.written and not self.unchanged:
            raise TooManyFailed(f"all {len(self.left_alone):,} sidecars were left alone; {self.left_alone[0]}")


def export_xmp(
    results: StrPath,
    config: SidecarConfig | None = None,
    model: str | None = None,
    on_sidecar: Callable[[Sidecar], None] = lambda sidecar: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Sidecars:
    """Add the latest tags of each image to its XMP sidecar; existing content is not changed.

    Only images with status ok get tags. `model` selects one of several models. `on_sidecar` is called with each
    sidecar that is, or would be, written. Raises UsageError, TableError or SourceError.
    """
    config = config or SidecarConfig()
    tags = _tags(os.fspath(results), model)
    tagged = {uri: names for uri, names in tags.items() if names}
    states, left_alone = Counter[State](), list[str]()
    for done, sidecar in enumerate(_sidecars(tagged, config), 1):
        states[sidecar.state] += 1
        if sidecar.state == "left_alone":
            left_alone.append(sidecar.reason)
        elif sidecar.state == "written":
            on_sidecar(sidecar)
        on_progress(done, len(tagged))
    return Sidecars(
        os.fspath(results), config.dry_run, states["written"], states["unchanged"], len(tags) - len(tagged),
        states["gone"], left_alone,
    )  # fmt: skip


def _tags(results: str, model: str | None) -> dict[str, list[str]]:
    """Return uri -> tags, sorted by folder; an image whose status is not ok has no tags."""
    if results.lower().endswith(".parquet"):
        raise UsageError(f"{results}: --format xmp writes the tags of a results folder, not the labels of a manifest")
    rows = latest_tags(results, model)
    pairs = zip(*(rows[name].to_pylist() for name in ("uri", "status", "tags")), strict=True)
    tags = {uri: [pair["tag"] for pair in found or () if status == "ok"] for uri, status, found in pairs}
    return dict(sorted(tags.items(), key=lambda each: (storage.parent(each[0]), each[0])))


def _sidecars(tags: Mapping[str, Sequence[str]], config: SidecarConfig) -> Iterator[Sidecar]:
    """Write the sidecar of each image, folder by folder."""
    with ThreadPoolExecutor(_WRITERS) as pool:
        for folder, images in groupby(tags, storage.parent):
            try:
                names = sidecars.names_in(folder)
            except SourceError as error:
                yield from (Sidecar(image, "left_alone", reason=str(error)) for image in images)
                continue
            found = {image: sidecars.name_in_folder(image) in names for image in images}
            yield from (Sidecar(image, "gone") for image, is_there in found.items() if not is_there)
            there = {image: sidecars.xmp_beside(image, names) for image, is_there in found.items() if is_there}
            places = {image: _place(image, paths, config) for image, paths in there.items()}
            uses = Counter(places.values())
            shared = (uses[place] > 1 for place in places.values())
            yield from pool.map(
                partial(_sidecar, config=config),
                places,
                places.values(),
                there.values(),
                [tags[image] for image in places],
                shared,
            )


def _sidecar(
    image: str, place: str, there: Sequence[str], tags: Sequence[str], is_shared: bool, config: SidecarConfig
) -> Sidecar:
    """Write the sidecar of an image; return what happened to it."""
    try:
        if is_shared:
            raise WriteError(f"{place}: another image would have the same sidecar; use --sidecar name.ext.xmp")
        return _write(image, place, there, tags, config)
    except (SourceError, ImageError, WriteError) as error:
        return Sidecar(place, "left_alone", reason=str(error))


def _place(image: str, there: Sequence[str], config: SidecarConfig) -> str:
    """Return the sidecar to write: an existing one, or a new one."""
    whole, stem = sidecars.called_after(image, ".xmp")
    name = stem if config.sidecar == "name.xmp" else whole
    found = (path for path in there if config.sidecar is None or path.lower() == name.lower())
    return next(found, name)


def _write(image: str, place: str, there: Sequence[str], tags: Sequence[str], config: SidecarConfig) -> Sidecar:
    """Add the tags of an image to its sidecar; raises an error, and writes nothing, where that is not possible."""
    exists, elsewhere = place in there, [path for path in there if path != place]
    place = _writable(place)
    packet = _read(place) if exists else xmp.empty(place)
    others = [] if packet.keywords else _elsewhere(image, elsewhere)
    new = packet.new(tags, config.under, others)
    if not new:
        return Sidecar(place, "unchanged")
    content = packet.added(new, others)
    if not config.dry_run and exists:
        storage.write_atomic(place, content)
    elif not config.dry_run and not storage.write_new(place, content):
        raise WriteError(f"{place}: another program has just changed it; export again")
    return Sidecar(place, "written", tuple(path[-1] for path in new))


def _elsewhere(image: str, paths: Sequence[str]) -> list[xmp.Path]:
    """Return keywords of another sidecar or of the image, which programs ignore once the sidecar has its own."""
    packets = (packet for packet in map(_read, paths) if packet.keywords)
    return (next(packets, None) or embedded.read(image)).own_paths()


def _read(sidecar: str) -> xmp.Packet:
    return xmp.read(sidecar, storage.read_range(sidecar, 0, xmp.LIMIT + 1, whole=False))


def _writable(place: str) -> str:
    """Return the file that a sidecar is, or links to; raises WriteError for one that is read-only."""
    if storage.is_remote(place):
        return place
    path = os.path.realpath(storage.local_path(place))
    # for root, os.access() is always true
    if os.path.exists(path) and not (os.stat(path).st_mode & 0o222 and os.access(path, os.W_OK)):
        raise WriteError(f"{place}: the sidecar is read-only")
    return storage.local_uri(path)
