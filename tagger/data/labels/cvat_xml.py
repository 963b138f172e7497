"""CVAT for images XML 1.1: `<image name="a.jpg" subset="train"><tag label="cat"/></image>`."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

from tagger import storage
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record, split_of, unique
from tagger.errors import TableError

_CHUNK = 1 << 20
_SHAPES = ("box", "polygon", "polyline", "points", "cuboid", "mask", "ellipse", "skeleton")


def matches(file: LabelFile) -> bool:
    """Return whether this is XML whose root is `annotations`."""
    return file.kind == "xml" and file.lines[0].startswith("<annotations")


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per image; one without tags is unlabelled, since CVAT does not record whether it was reviewed.

    Raises TableError for invalid XML, and for a DTD or entities, which no export has.
    """
    images, found = _Images(notes), 0
    parser = ElementTree.XMLParser(target=images)
    try:
        with storage.open_input(file.uri) as opened:
            while chunk := opened.read(_CHUNK):
                parser.feed(chunk)
                found += len(images.records)
                yield from images.records
                images.records.clear()
        parser.close()
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the latter two: its encoding
        raise TableError(f"{file.uri}: not valid XML ({error})") from error
    if not found:
        notes.add("files without an <image> (tracks of videos are not read)", file.uri)


class _Images:
    """Collects the images of an XML document as it is parsed."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes
        self.records: list[Record] = []
        self.image: dict[str, str] = {}
        self.label: dict[str, str] | None = None
        """Name and type of the class whose declaration is being parsed."""
        self.text = ""
        self.tags: list[str] = []

    def doctype(self, *declaration: str | None) -> None:
        """Reject a DTD, whose entities can fill the memory or read other files."""
        raise ValueError("declares a DTD or entities, which label files do not need; refused")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """Enter an element."""
        self.text = ""
        if tag == "label":
            self.label = {}
        elif tag == "image":
            self.image, self.tags = attributes, []
        elif tag == "tag" and self.image:
            self.tags.append(attributes.get("label", ""))
        elif tag in _SHAPES and self.image:
            self.notes.add("shapes (boxes, polygons, ...), ignored", self.image.get("name", ""))

    def data(self, text: str) -> None:
        """Collect the text of an element, which may arrive in pieces."""
        self.text += text if self.label is not None else ""

    def end(self, tag: str) -> None:
        """Leave an element; an image becomes a record, an image label a class."""
        if tag in ("name", "type") and self.label is not None:
            self.label.setdefault(tag, self.text.strip())
        elif tag == "label" and self.label is not None:
            if self.label.get("name") and self.label.get("type", "any") in ("any", "tag"):
                self.notes.add_classes([self.label["name"]])
            self.label = None
        elif tag == "image":
            self._end_image()

    def _end_image(self) -> None:
        name, subset = self.image.get("name", ""), self.image.get("subset", "")
        if name:
            # names may repeat across subsets, whose images are in folders of the subset's name
            path = f"{subset}/{name}" if subset and subset != "default" else name
            self.records.append(Record(path, unique(self.tags) or None, split_of(subset)))
        else:
            self.notes.add("images without a name", str(self.image))
        self.image = {}


FORMAT = Format("cvat-xml", "CVAT for images XML 1.1", matches, read, "xml")
