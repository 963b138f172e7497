"""Read the keywords of XMP packets, and add keywords without changing any other byte.

Photo programs store keywords in three lists: flat in dc:subject, as paths in lr:hierarchicalSubject (`animal|cat`) and
digiKam:TagsList (`animal/cat`). A fourth list, tagger:predicted, names the keywords that tagger added.

expat finds the places where text is inserted. So comments, unknown properties, order and formatting are preserved,
which libraries that rewrite the whole packet do not guarantee.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias
from xml.parsers import expat
from xml.sax.saxutils import escape

from tagger.errors import SourceError

LIMIT = 8 << 20
"""Maximum bytes of a packet; photo programs write a few kilobytes, or hundreds with a long history of edits."""
SEPARATOR = "|"
"""Separates the names of a keyword and its parents, as in Lightroom."""

Path: TypeAlias = tuple[str, ...]
"""A keyword and its parents, the topmost first."""
Edit: TypeAlias = tuple[int, int, str]
"""Start and end of the replaced bytes, and the text that replaces them."""


@dataclass(frozen=True)
class KeywordList:
    """A property that is a list of keywords."""

    prefix: str
    name: str
    namespace: str
    separator: str = ""
    """Separates the names of a path; empty for a flat list."""

    def path(self, text: str) -> Path:
        """Parse a keyword of this list into a path; digiKam writes a slash in a name as a backslash."""
        names = (name.strip() for name in (text.split(self.separator) if self.separator else [text]))
        return tuple(name.replace("\\", "/") if self is DIGIKAM else name for name in names if name)

    def text(self, path: Path) -> str:
        """Format a path as this list stores it."""
        if not self.separator:
            return path[-1]
        return self.separator.join(name.replace("/", "\\") if self is DIGIKAM else name for name in path)


SUBJECT = KeywordList("dc", "subject", "http://purl.org/dc/elements/1.1/")
LIGHTROOM = KeywordList("lr", "hierarchicalSubject", "http://ns.adobe.com/lightroom/1.0/", SEPARATOR)
DIGIKAM = KeywordList("digiKam", "TagsList", "http://www.digikam.org/ns/1.0/", "/")
PREDICTED = KeywordList("tagger", "predicted", "tagger:ns:1.0/")
_LISTS = {f"{each.namespace} {each.name}": each for each in (SUBJECT, LIGHTROOM, DIGIKAM, PREDICTED)}
"""The lists by element name, as expat reports it."""

_RDF, _DESCRIPTION, _ITEM, *_CONTAINERS = (
    f"http://www.w3.org/1999/02/22-rdf-syntax-ns# {name}" for name in ("RDF", "Description", "li", "Bag", "Seq", "Alt")
)
_INTERNAL = ("darktable", "_Digikam_root_tag_", "_Digikam_Internal_Tags_")
"""Top names of keyword paths that photo programs create for their own use."""
_EMPTY_TAG = re.compile(rb"""<[^\s/>]+(?:\s+[^\s=]+\s*=\s*(?:"[^"]*"|'[^']*'))*\s*(/>)""")
_TAG = re.compile(rb"<(([^\s/>:]+:)?[^\s/>]+)")
"""Name and prefix of an element."""
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NEW = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="">
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""


@dataclass
class Element:
    """The positions of an element in the packet."""

    start: int
    end: int = -1
    """Start of its closing tag; for an empty element, its end."""


@dataclass
class Packet:
    """The keywords of a packet, and the places where keywords can be added."""

    uri: str
    content: bytes
    keywords: dict[KeywordList, list[str]] = field(default_factory=dict)
    """The keywords of each list that the packet has."""
    places: dict[KeywordList, Element] = field(default_factory=dict)
    loose: set[KeywordList] = field(default_factory=set)
    """Lists with text outside their items."""
    rdf: list[Element] = field(default_factory=list)
    descriptions: list[Element] = field(default_factory=list)
    encoding: str | None = None

    def paths(self) -> list[Path]:
        """Return all keywords; a flat keyword that occurs in a path is not returned again."""
        deep = self._deep()
        parts = {name for path in deep for name in path}
        flat = [(text,) for text in self._flat(SUBJECT) if text not in parts]
        return list(dict.fromkeys((*deep, *flat)))

    def own_paths(self) -> list[Path]:
        """Return the keywords that tagger did not add."""
        predicted = set(self.predicted())
        return [path for path in self.paths() if path[-1] not in predicted]

    def labels(self) -> tuple[str, ...]:
        """Return the keywords added by people: all except those added by tagger and programs' internal ones."""
        deep = self._deep()
        own = [path for path in deep if path[0] not in _INTERNAL]
        marks = {name for path in deep for name in path} - {name for path in own for name in path}
        left_out = marks.union(self.predicted())
        found = self._flat(SUBJECT) or [path[-1] for path in own]
        return tuple(dict.fromkeys(text for text in found if text not in left_out))

    def predicted(self) -> list[str]:
        """Return the keywords that tagger added, including those since deleted."""
        return self._flat(PREDICTED)

    def new(self, tags: Iterable[str], under: str = "", others: Iterable[Path] = ()) -> list[Path]:
        """Return the paths of the tags that are not among the keywords or `others` and were never added before.

        A tag that was added before and is missing now was deleted by a person. Case is ignored.
        """
        known = {*self._flat(SUBJECT), *self.predicted(), *(path[-1] for path in (*self._deep(), *others))}
        known = set(map(_key, known))
        parents = LIGHTROOM.path(_valid(under))
        paths = dict.fromkeys(LIGHTROOM.path(_valid(tag)) for tag in tags)
        return [(*parents, *path) for path in paths if path and _key(path[-1]) not in known]

    def added(self, new: Sequence[Path], others: Sequence[Path] = ()) -> bytes:
        """Return the packet with these keywords at the end of each list.

        A list that the packet lacks is created with all keywords, of the other lists and `others` too: a program that
        finds the list it prefers reads no other. Raises SourceError for a packet to which nothing can be added.
        """
        if self.content[:2] in (b"\xff\xfe", b"\xfe\xff") or (self.encoding or "utf-8").lower() != "utf-8":
            raise SourceError(f"{self.uri}: not UTF-8, so no keywords can be added")
        whole = [*self.paths(), *others, *new]
        complete = {SUBJECT: whole, LIGHTROOM: whole, DIGIKAM: whole, PREDICTED: [*new]}
        edits = [self._extend_list(each, new) for each in complete if each in self.keywords]
        if missing := {each: paths for each, paths in complete.items() if each not in self.keywords}:
            edits.append(self._add_lists(missing))
        content = self.content
        for start, end, text in sorted(edits, reverse=True):
            content = content[:start] + text.encode() + content[end:]
        return content

    def _flat(self, each: KeywordList) -> list[str]:
        return [text.strip() for text in self.keywords.get(each, ()) if text.strip()]

    def _deep(self) -> list[Path]:
        paths = (each.path(text) for each in (LIGHTROOM, DIGIKAM) for text in self._flat(each))
        return [path for path in paths if path]

    def _extend_list(self, each: KeywordList, new: Sequence[Path]) -> Edit:
        """Return the edit that appends keywords to a list."""
        if each not in self.places or each in self.loose:
            raise SourceError(f"{self.uri}: {each.prefix}:{each.name} is not a list, so no keywords were added")
        place = self.places[each]
        space = self._space(place)
        items = (f"{_deeper(space)[len(space) :]}{item}{space}" for item in _items(each, new, self._tag(place)[1]))
        return self._inside(place, "".join(items))

    def _add_lists(self, lists: Mapping[KeywordList, Sequence[Path]]) -> Edit:
        """Return the edit that adds lists to the first rdf:Description, or to a new one."""
        prefix = self._tag(self.rdf[0])[1]
        place = self.descriptions[0] if self.descriptions else self.rdf[0]
        text = "".join(_list(each, paths, prefix, self._space(place)) for each, paths in lists.items())
        if not self.descriptions:
            text = f'<{prefix}Description {prefix}about="">{text}</{prefix}Description>'
        return self._inside(place, text)

    def _inside(self, element: Element, text: str) -> Edit:
        """Return the edit that appends text to an element's content."""
        if empty := self._empty_tag(element):
            return empty.start(1), empty.end(1), f">{text}</{self._tag(element)[0]}>"
        return element.end, element.end, text

    def _empty_tag(self, element: Element) -> re.Match[bytes] | None:
        """Return the match of `<name/>`; None for an element with a closing tag."""
        match = _EMPTY_TAG.match(self.content, element.start)
        return match if match and match.end() == element.end else None

    def _tag(self, element: Element) -> tuple[str, str]:
        """Return the name of an element, and its prefix with the colon."""
        match = _TAG.match(self.content, element.start)
        assert match
        return match[1].decode(), (match[2] or b"").decode()

    def _space(self, element: Element) -> str:
        """Return the line break and indentation before the closing tag."""
        before = self.content[element.start : element.end]
        space = before[len(before.rstrip()) :].decode()
        return space if "\n" in space else ""


def read(uri: str, content: bytes) -> Packet:
    """Read a packet; raises SourceError when it is malformed, over the limit, or declares a DTD."""
    if len(content) > LIMIT:
        raise SourceError(f"{uri}: over {LIMIT >> 20} MB, larger than any XMP file that a photo program writes")
    packet = Packet(uri, content)
    try:
        _Handlers(packet).parser.Parse(content, True)
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise SourceError(f"{uri}: not well-formed XML ({error})") from error
    if not packet.rdf:
        raise SourceError(f"{uri}: not XMP; it has no rdf:RDF")
    return packet


def empty(uri: str) -> Packet:
    """Return a packet without properties."""
    return read(uri, _NEW.encode())


class _Handlers:
    """expat handlers that fill a packet, from properties directly below the descriptions of rdf:RDF."""

    def __init__(self, packet: Packet) -> None:
        self.packet, self.names, self.elements = packet, list[str](), list[Element]()
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.XmlDeclHandler = self._declaration
        self.parser.StartDoctypeDeclHandler = self._doctype

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        element = Element(self.parser.CurrentByteIndex)
        self.names.append(name)
        self.elements.append(element)
        packet, inside = self.packet, self._inside()
        if name == _RDF and len(self.names) <= 2:
            packet.rdf.append(element)
        elif inside == [_DESCRIPTION]:
            packet.descriptions.append(element)
            packet.keywords |= {_LISTS[key]: [text] for key, text in attributes.items() if key in _LISTS}
        elif len(inside) > 1 and (known := _LISTS.get(inside[1])):
            texts = packet.keywords.setdefault(known, [])
            if len(inside) == 3 and name in _CONTAINERS:
                packet.places.setdefault(known, element)
            elif len(inside) == 4 and name == _ITEM:
                texts.append("")

    def _end(self, name: str) -> None:
        self.names.pop()
        self.elements.pop().end = self.parser.CurrentByteIndex

    def _text(self, text: str) -> None:
        inside = self._inside()
        if len(inside) < 2 or not (known := _LISTS.get(inside[1])):
            return
        if inside[3:4] == [_ITEM]:
            self.packet.keywords[known][-1] += text
        elif text.strip():
            self.packet.loose.add(known)
            self.packet.keywords[known].append(text)

    def _inside(self) -> list[str]:
        """Return the names of the open elements below rdf:RDF."""
        return self.names[self.names.index(_RDF) + 1 :] if _RDF in self.names[:2] else []

    def _declaration(self, version: str, encoding: str | None, standalone: int) -> None:
        self.packet.encoding = encoding

    def _doctype(self, *declared: object) -> None:
        raise ValueError("it declares a DTD")


def _list(each: KeywordList, paths: Iterable[Path], prefix: str, space: str) -> str:
    """Return a property with its keywords; `space` is the line break and indentation of its surroundings."""
    outer, middle, inner = (_deeper(space, depth) for depth in (1, 2, 3))
    items = "".join(f"{inner}{item}" for item in _items(each, paths, prefix))
    name = f"{each.prefix}:{each.name}"
    bag = f"{middle}<{prefix}Bag>{items}{middle}</{prefix}Bag>{outer}"
    return f'{outer[len(space) :]}<{name} xmlns:{each.prefix}="{each.namespace}">{bag}</{name}>{space}'


def _items(each: KeywordList, paths: Iterable[Path], prefix: str) -> list[str]:
    """Return the keywords as the items of a list, without duplicates."""
    return [f"<{prefix}li>{escape(text)}</{prefix}li>" for text in dict.fromkeys(map(each.text, paths))]


def _deeper(space: str, depth: int = 1) -> str:
    return space and space + " " * depth


def _key(text: str) -> str:
    """Return a keyword for comparison, without differences of case or of composed and decomposed accents."""
    return unicodedata.normalize("NFC", text).casefold()


def _valid(text: str) -> str:
    """Return a tag on one line, with characters that XML does not allow replaced."""
    return " ".join(_NOT_XML.sub("\ufffd", text).split())
