"""CVAT for images XML 1.1: `<image name="a.jpg" subset="train"><tag label="cat"/></image>`."""

from __future__ import annotations

from collections.abc import Iterator
from xml.parsers import expat

from tagger import storage
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record, split_of
from tagger.errors import TableError

_CHUNK = 1 << 20
_SHAPES = ("box", "polygon", "polyline", "points", "cuboid", "mask", "ellipse", "skeleton")


def matches(file: LabelFile) -> bool:
    """Tell by XML whose root is `annotations`."""
    return file.kind == "xml" and file.lines[-1].startswith("<annotations")


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per image; one without tags is unlabelled, since CVAT does not say whether anybody looked.

    Raises TableError for broken XML and for one that declares a DTD or entities, which no export has.
    """
    parser, found = _Images(file.uri, notes), 0
    with storage.open_input(file.uri) as opened:
        while chunk := opened.read(_CHUNK):
            parser.feed(chunk)
            found += len(parser.records)
            yield from parser.records
            parser.records.clear()
    parser.feed(b"", final=True)
    if not found:
        notes.add("files without an <image> (tracks of videos are not read)", file.uri)


class _Images:
    """Collects the images of an XML document as it is fed."""

    def __init__(self, uri: str, notes: Notes) -> None:
        self.uri, self.notes = uri, notes
        self.records: list[Record] = []
        self.image: dict[str, str] = {}
        self.tags: list[str] = []
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.StartDoctypeDeclHandler = self.refuse
        self.parser.EntityDeclHandler = self.refuse

    def feed(self, chunk: bytes, final: bool = False) -> None:
        """Parse some more of the document."""
        try:
            self.parser.Parse(chunk, final)
        except (expat.ExpatError, LookupError, ValueError) as error:  # the latter two: its encoding
            raise TableError(f"{self.uri}: not valid XML ({error})") from error

    def refuse(self, *declaration: object) -> None:
        """Stop at a DTD or an entity: they can make a small file fill the memory or read others."""
        raise TableError(f"{self.uri}: declares a DTD or entities, which label files have no need of; refused")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """Enter an element."""
        if tag == "image":
            self.image, self.tags = attributes, []
        elif tag == "tag" and self.image and attributes.get("label"):
            self.tags.append(attributes["label"])
        elif tag in _SHAPES and self.image:
            self.notes.add("shapes (boxes, polygons, ...), ignored", self.image.get("name", ""))

    def end(self, tag: str) -> None:
        """Leave an element; an image becomes a record."""
        if tag != "image":
            return
        name, subset = self.image.get("name", ""), self.image.get("subset", "")
        if not name:
            self.notes.add("images without a name", str(self.image))
        else:
            # the same name recurs across subsets, whose images stand in folders of that name
            path = f"{subset}/{name}" if subset and subset != "default" else name
            self.records.append(Record(path, tuple(dict.fromkeys(self.tags)) or None, split_of(subset)))
        self.image = {}


FORMAT = Format("cvat-xml", "CVAT for images XML 1.1", matches, read, kind="xml")
