"""XMP: tags become keywords in sidecars and nothing else changes; keywords of photo programs become labels."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from label_files import by_name, ingest, notes_of, write_images
from pictures import photo, without_root_powers
from test_exporting import results

import tagger
from tagger import storage
from tagger.data.labels.source import corrected, read_labelled
from tagger.errors import TooManyFailed, UsageError
from tagger.images import xmp
from tagger.tagging.config import SidecarConfig
from tagger.tagging.export_xmp import Sidecars, export_xmp

Run = Callable[..., subprocess.CompletedProcess[str]]
RDF = 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
DC, LR = 'xmlns:dc="http://purl.org/dc/elements/1.1/"', 'xmlns:lr="http://ns.adobe.com/lightroom/1.0/"'
DIGIKAM = 'xmlns:digiKam="http://www.digikam.org/ns/1.0/"'

LIGHTROOM = f"""<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Adobe XMP Core 5.6">
 <rdf:RDF {RDF}>
  <rdf:Description rdf:about="uuid:1" xmlns:xmp="http://ns.adobe.com/xap/1.0/" {DC} {LR}
    xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/" xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/"
   xmp:Rating="4"
   crs:Version="9.1" crs:Note="one&#10;two &amp; &quot;more&quot;">
   <dc:subject>
    <rdf:Bag>
     <rdf:li>zebra</rdf:li>
     <rdf:li>apple &amp; pear</rdf:li>
    </rdf:Bag>
   </dc:subject>
   <lr:hierarchicalSubject>
    <rdf:Bag>
     <rdf:li>animal|zebra</rdf:li>
    </rdf:Bag>
   </lr:hierarchicalSubject>
   <xmpMM:Pantry><rdf:Bag><rdf:li rdf:parseType="Resource">
    <dc:subject><rdf:Bag><rdf:li>cat</rdf:li></rdf:Bag></dc:subject></rdf:li></rdf:Bag></xmpMM:Pantry>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""
EXIFTOOL = f"""<?xpacket begin='\ufeff' id='W5M0MpCehiHzreSzNTczkc9d'?>
<x:xmpmeta xmlns:x='adobe:ns:meta/' x:xmptk='Image::ExifTool 12.57'>
<rdf:RDF {RDF.replace('"', "'")}>

 <rdf:Description rdf:about=''
  xmlns:dc='http://purl.org/dc/elements/1.1/'>
  <dc:subject>
   <rdf:Seq>
    <rdf:li>zebra</rdf:li>
    <rdf:li/>
    <rdf:li><![CDATA[apple & pear]]></rdf:li>
   </rdf:Seq>
  </dc:subject>
 </rdf:Description>

 <!-- a comment -->
 <rdf:Description rdf:about=''
  xmlns:my='http://example.org/foreign/'>
  <my:deep rdf:parseType='Resource'><my:a>1</my:a></my:deep>
 </rdf:Description>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end='w'?>"""
PACKETS = {
    "Lightroom": LIGHTROOM,
    "ExifTool": EXIFTOOL,
    "Windows": "\ufeff" + LIGHTROOM.replace("\n", "\r\n"),
    "one line": " ".join(LIGHTROOM.split()),
    "no x:xmpmeta": f'<rdf:RDF {RDF}><rdf:Description rdf:about=""/></rdf:RDF>',
    "no description": f"<rdf:RDF {RDF}/>",
    "another prefix": f'<r:RDF {RDF.replace("rdf=", "r=")}><r:Description r:about=" /> "/></r:RDF>',
    "empty list": f'<rdf:RDF {RDF}><rdf:Description rdf:about="" {DC}><dc:subject><rdf:Bag/></dc:subject>'
    "</rdf:Description></rdf:RDF>",
}


def tag(folder: Path, tags: dict[str, list[str]], **options: Any) -> Sidecars:
    """Write a results table that gives these images these tags, and export it."""
    place = folder.parent / "results"
    shutil.rmtree(place, ignore_errors=True)
    results(
        place, [storage.local_uri(str(folder / name)) for name in tags], [[(t, 0.9) for t in n] for n in tags.values()]
    )
    return export_xmp(place, SidecarConfig(**options))


def keywords(path: Path) -> tuple[list[str], list[str], list[str]]:
    """dc:subject, lr:hierarchicalSubject and digiKam:TagsList of a sidecar."""
    found = xmp.read(str(path), path.read_bytes()).keywords
    return found.get(xmp.SUBJECT, []), found.get(xmp.LIGHTROOM, []), found.get(xmp.DIGIKAM, [])


def exiftool(*arguments: str | Path) -> list[dict[str, Any]]:
    if not shutil.which("exiftool"):
        pytest.skip("no exiftool: apt-get install libimage-exiftool-perl")
    ran = subprocess.run(["exiftool", "-j", "-G1", "-struct", *map(str, arguments)], capture_output=True, check=True)
    found: list[dict[str, Any]] = json.loads(ran.stdout)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_images(tmp_path / "photos", ["a.jpg", "b.jpg"])


# --- sidecars ---------------------------------------------------------------------------------------------------------


def test_exiftool_reads_the_keywords_of_a_new_sidecar(folder: Path) -> None:
    names = ["cat", 'a & <b> "c"', "Tier|Hündin", "black/white"]
    assert tag(folder, {"a.jpg": names, "b.jpg": []}).text() == "1 sidecars written\nimages without a tag: 1"
    (found,) = exiftool("-XMP:all", folder / "a.jpg.xmp")
    assert found["XMP-dc:Subject"] == ["cat", 'a & <b> "c"', "Hündin", "black/white"]
    assert found["XMP-lr:HierarchicalSubject"] == names
    assert found["XMP-digiKam:TagsList"] == ["cat", 'a & <b> "c"', "Tier/Hündin", "black\\white"]
    assert sorted(os.listdir(folder)) == ["a.jpg", "a.jpg.xmp", "b.jpg"]


@pytest.mark.parametrize("name", PACKETS)
def test_keywords_are_added_and_every_other_byte_stays(folder: Path, name: str) -> None:
    sidecar, before = folder / "a.jpg.xmp", PACKETS[name].encode()
    sidecar.write_bytes(before)
    old = keywords(sidecar)
    assert tag(folder, {"a.jpg": ["dog", "zebra", "cat"]}).written == 1
    after = iter(sidecar.read_bytes())
    assert all(byte in after for byte in before)
    new = [word for word in ("dog", "zebra", "cat") if word not in old[0]]
    assert keywords(sidecar)[0] == [*old[0], *new]
    assert keywords(sidecar)[1] == [*(old[1] or filter(None, old[0])), *new]
    assert keywords(sidecar)[2][-len(new) :] == new


@pytest.mark.parametrize("name", sorted(set(PACKETS) - {"another prefix"}))  # exiftool ends a tag at " /> "
def test_exiftool_finds_everything_else_unchanged(folder: Path, name: str) -> None:
    sidecar = folder / "a.jpg.xmp"
    sidecar.write_text(PACKETS[name], newline="")
    shutil.copy(sidecar, folder / "before.xmp")
    tag(folder, {"a.jpg": ["dog"]})
    before, after = (
        {key: value for key, value in found.items() if key.startswith("XMP-")}
        for found in exiftool("-XMP:all", folder / "before.xmp", sidecar)
    )
    lists = ("XMP-dc:Subject", "XMP-lr:HierarchicalSubject", "XMP-digiKam:TagsList", "XMP-tagger:Predicted")
    assert "dog" in after["XMP-dc:Subject"]
    assert {key: after[key] for key in after if key not in lists} == {k: before[k] for k in before if k not in lists}


def test_a_second_export_writes_nothing(folder: Path) -> None:
    (folder / "b.jpg.xmp").write_text(LIGHTROOM)
    tags = {"a.jpg": [" x\ny ", "cat\x07", "|", "a|b"], "b.jpg": ["dog"]}
    assert tag(folder, tags).written == 2
    before = {path: (path.read_bytes(), path.stat().st_ino) for path in folder.glob("*.xmp")}
    again = tag(folder, tags)
    assert (again.written, again.unchanged) == (0, 2)
    assert {path: (path.read_bytes(), path.stat().st_ino) for path in folder.glob("*.xmp")} == before
    assert keywords(folder / "a.jpg.xmp")[0] == ["x y", "cat\ufffd", "b"]


def test_keywords_that_are_there_are_not_added_again_and_deleted_ones_stay_deleted(folder: Path) -> None:
    sidecar = folder / "a.jpg.xmp"
    sidecar.write_text(LIGHTROOM)
    assert tag(folder, {"a.jpg": ["zebra", "Apple & Pear"]}).unchanged == 1
    assert tag(folder, {"a.jpg": ["dog"]}).written == 1
    sidecar.write_text(sidecar.read_text().replace("<rdf:li>dog</rdf:li>", "", 3))  # of four, in the order of the lists
    assert tag(folder, {"a.jpg": ["dog"]}).unchanged == 1
    assert tag(folder, {"a.jpg": ["cow"]}).written == 1  # one that is no tag any more stays a keyword
    assert keywords(sidecar)[0] == ["zebra", "apple & pear", "cow"]


def test_a_parent_tells_tags_from_own_keywords(folder: Path) -> None:
    (folder / "a.jpg.xmp").write_text(LIGHTROOM)
    tag(folder, {"a.jpg": ["zebra", "dog", "wild|lion"]}, under="AI|2026")
    flat, lightroom, digikam = keywords(folder / "a.jpg.xmp")
    assert flat == ["zebra", "apple & pear", "dog", "lion"]
    assert lightroom == ["animal|zebra", "AI|2026|dog", "AI|2026|wild|lion"]
    assert digikam == ["animal/zebra", "apple & pear", "AI/2026/dog", "AI/2026/wild/lion"]


def test_only_tags_of_whole_images_are_written(folder: Path) -> None:
    place = folder.parent / "results"
    results(place, [f"{folder}/a.jpg", f"{folder}/b.jpg"], [[("cat", 0.9)], None])
    found = export_xmp(str(place))
    assert (found.written, found.untagged, found.gone) == (1, 1, 0)
    results(place, [f"{folder}/a.jpg"], [[("cat", 0.9)]], "other")
    with pytest.raises(UsageError, match="--model must name one of the models"):
        export_xmp(place)
    with pytest.raises(UsageError, match=r"m\.parquet: --format xmp writes the tags of a results folder"):
        export_xmp("m.parquet")


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;">]><x:xmpmeta xmlns:x="adobe:ns:meta/">&b;</x:xmpmeta>'
BAD = {
    "not well-formed XML": LIGHTROOM.replace("</dc:subject>", ""),
    "it declares a DTD": BOMB,
    "it has no rdf:RDF": "<a/>",
    "not UTF-8": LIGHTROOM.encode("utf-16"),
    "no element found": "",
    "dc:subject is not a list": f'<rdf:RDF {RDF}><rdf:Description {DC} dc:subject="x"/></rdf:RDF>',
    "dc:subject is not a list,": LIGHTROOM.replace("<dc:subject>", "<dc:subject>x"),
    "over 8 MB": LIGHTROOM + " " * (8 << 20),
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_sidecar_is_left_alone_and_named(folder: Path, reason: str, run_tagger: Run) -> None:
    sidecar, content = folder / "a.jpg.xmp", BAD[reason]
    sidecar.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = sidecar.read_bytes()
    found = tag(folder, {"a.jpg": ["cat"], "b.jpg": ["dog"]})
    assert (found.written, len(found.left_alone)) == (1, 1)
    assert f"left alone: {sidecar}: " in found.text()
    assert reason in found.text()
    assert sidecar.read_bytes() == before


def test_read_only_sidecars_and_folders_are_left_alone(folder: Path, run_tagger: Run) -> None:
    sidecar = folder / "a.jpg.xmp"
    sidecar.write_text(LIGHTROOM)
    sidecar.chmod(0o444)
    assert tag(folder, {"a.jpg": ["cat"], "b.jpg": ["dog"]}).left_alone == [f"{sidecar}: the sidecar is read-only"]
    assert sidecar.read_text() == LIGHTROOM
    (folder / "b.jpg.xmp").unlink()
    folder.chmod(0o555)
    command = ("export", folder.parent / "results", "--format", "xmp")
    ran = run_tagger(*command, preexec_fn=without_root_powers)
    folder.chmod(0o755)
    assert (ran.returncode, ran.stderr.count("\n")) == (3, 1), ran.stderr
    assert f"left alone: {folder}/b.jpg.xmp: cannot write (permission denied)" in ran.stdout.lower()
    assert sorted(os.listdir(folder)) == ["a.jpg", "a.jpg.xmp", "b.jpg"]
    with pytest.raises(TooManyFailed, match="all 1 sidecars were left alone"):
        tag(folder, {"a.jpg": ["cat"]}).check()


def test_a_folder_that_may_not_be_listed_stops_no_other(tmp_path: Path, run_tagger: Run) -> None:
    folder = write_images(tmp_path / "photos", ["closed/a.jpg", "open/b.jpg"])
    tag(folder, {"closed/a.jpg": ["cat"], "open/b.jpg": ["dog"]}, dry_run=True)
    (folder / "closed").chmod(0)
    ran = run_tagger("export", tmp_path / "results", "--format", "xmp", preexec_fn=without_root_powers)
    (folder / "closed").chmod(0o755)
    assert ran.stdout.startswith(f"1 sidecars written, 1 left alone\nleft alone: {folder}/closed: "), ran.stderr
    assert [path.name for path in folder.rglob("*.xmp")] == ["b.jpg.xmp"]


def test_mode_and_link_of_a_sidecar_stay(folder: Path) -> None:
    (folder / "real").write_text(LIGHTROOM)
    (folder / "real").chmod(0o640)
    (folder / "a.jpg.xmp").symlink_to("real")
    assert tag(folder, {"a.jpg": ["cat"]}).written == 1
    assert os.readlink(folder / "a.jpg.xmp") == "real"
    assert (folder / "real").stat().st_mode & 0o777 == 0o640
    assert "cat" in keywords(folder / "real")[0]


@pytest.mark.parametrize(
    ("there", "sidecar", "written"),
    [
        ([], None, "a.jpg.xmp"),
        ([], "name.xmp", "a.xmp"),
        (["a.xmp"], None, "a.xmp"),
        (["a.XMP"], "name.xmp", "a.XMP"),
        (["a.xmp"], "name.ext.xmp", "a.jpg.xmp"),
        (["a.xmp", "a.jpg.xmp"], None, "a.jpg.xmp"),
        (["a.xmp", "a.jpg.xmp"], "name.xmp", "a.xmp"),
    ],
)
def test_the_sidecar_that_is_there_is_used_or_the_one_named(
    folder: Path, there: list[str], sidecar: str | None, written: str
) -> None:
    for name in there:
        (folder / name).write_text(LIGHTROOM)
    assert tag(folder, {"a.jpg": ["cat"]}, sidecar=sidecar).written == 1
    changed = [
        path.name for path in folder.iterdir() if path.suffix.lower() == ".xmp" and path.read_text() != LIGHTROOM
    ]
    assert changed == [written]
    assert keywords(folder / written)[0] == ["zebra", "apple & pear", "cat"] if there else ["cat"]


def test_two_images_never_share_a_sidecar(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", ["a.jpg", "a.png", "b.jpg"])
    found = tag(folder, {"a.jpg": ["x"], "a.png": ["y"], "b.jpg": ["z"]}, sidecar="name.xmp")
    assert (found.written, len(found.left_alone)) == (1, 2)
    reason = "another image would have the same sidecar; use --sidecar name.ext.xmp"
    assert found.left_alone[0] == f"{folder}/a.xmp: {reason}"
    assert tag(folder, {"a.jpg": ["x"], "a.png": ["y"]}).written == 2


def test_names_of_any_bytes_and_images_that_are_gone(folder: Path) -> None:
    odd = ['50%25 & <x> "y".jpg', "\udcff.jpg"]
    for name in odd:
        shutil.copy(folder / "a.jpg", folder / name)
    found = tag(folder, {name: ["cat"] for name in (*odd, "gone.jpg", "x.tar::a.jpg")})
    assert (found.written, found.gone, found.left_alone) == (2, 2, [])
    assert {f"{name}.xmp" for name in odd} <= {*os.listdir(folder)}


def test_a_dry_run_prints_and_writes_nothing(folder: Path, run_tagger: Run) -> None:
    tag(folder, {"a.jpg": ["cat", "dog"], "b.jpg": []}, dry_run=True)
    command = ("export", folder.parent / "results", "--format", "xmp")
    ran = run_tagger(*command, "--dry-run")
    assert ran.stdout.splitlines()[:2] == [f"{folder}/a.jpg.xmp: cat, dog", "1 sidecars would be written"]
    assert sorted(os.listdir(folder)) == ["a.jpg", "b.jpg"]
    written = json.loads(run_tagger(*command, "--json").stdout)
    assert (written["written"], written["dry_run"]) == (1, False)
    ran = run_tagger("export", folder.parent / "results", "--format", "csv", "--out", "x", "--under", "AI")
    assert ran.stderr == "tagger: --under: no effect with --format csv; omit it, or use xmp\n"


def test_sidecars_in_a_bucket(tmp_path: Path) -> None:
    place = f"memory://{tmp_path.name}/photos"
    for name in ("a.jpg", "b.jpg"):
        storage.write_atomic(f"{place}/{name}", jpeg())
    storage.write_atomic(f"{place}/b.jpg.xmp", LIGHTROOM.encode())
    results(tmp_path / "results", [f"{place}/a.jpg", f"{place}/b.jpg"], [[("cat", 0.9)]] * 2)
    assert export_xmp(tmp_path / "results").written == 2
    assert export_xmp(tmp_path / "results").unchanged == 2
    packet = xmp.read("b", storage.read_bytes(f"{place}/b.jpg.xmp"))
    assert packet.keywords[xmp.SUBJECT] == ["zebra", "apple & pear", "cat"]
    table = tagger.ingest(place, tmp_path / "m.parquet", "xmp").table
    assert table["labels"].to_pylist() == [None, ["apple & pear", "zebra"]]


# --- keywords as labels -----------------------------------------------------------------------------------------------


def jpeg(*segments: tuple[int, bytes]) -> bytes:
    """A JPEG with further segments."""
    sink = io.BytesIO()
    photo(1).save(sink, "JPEG")
    extra = b"".join(struct.pack(">BBH", 0xFF, kind, len(content) + 2) + content for kind, content in segments)
    return sink.getvalue()[:2] + extra + sink.getvalue()[2:]


def iptc(*words: bytes, utf8: bool = False) -> tuple[int, bytes]:
    """The segment of a JPEG with IPTC keywords."""
    sets = [(1, 90, b"\x1b%G")] if utf8 else []
    sets += [(2, 25, word) for word in words]
    record = b"".join(struct.pack(">BBBH", 0x1C, number, dataset, len(text)) + text for number, dataset, text in sets)
    record += b"\0" * (len(record) % 2)
    return 0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", len(record)) + record


def packet(*words: str, more: str = "") -> str:
    items = "".join(f"<rdf:li>{word}</rdf:li>" for word in words)
    return (
        f'<rdf:RDF {RDF}><rdf:Description rdf:about="" {DC} {LR} {DIGIKAM}>'
        f"<dc:subject><rdf:Bag>{items}</rdf:Bag></dc:subject>{more}</rdf:Description></rdf:RDF>"
    )


def embedded(format: str, *words: str) -> bytes:
    sink = io.BytesIO()
    content = packet(*words).encode()
    extra: dict[str, Any] = {"tiffinfo": {700: content}} if format == "TIFF" else {"xmp": content}
    if format == "PNG":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", content.decode())
        extra = {"pnginfo": info}
    photo(1).save(sink, format, **extra)
    return sink.getvalue()


def test_keywords_are_read_from_sidecars_xmp_and_iptc(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", ["none.jpg", "whole.jpg", "stem.jpg"])
    (folder / "whole.jpg.xmp").write_text(packet("cat", "dog"))
    (folder / "stem.XMP").write_text(packet("Hündin"))
    (folder / "i.jpg").write_bytes(jpeg(iptc(b"sea side", "Grün".encode())))
    (folder / "l.jpg").write_bytes(jpeg(iptc("Grün".encode("latin-1"))))
    (folder / "u.jpg").write_bytes(jpeg(iptc("Straße".encode(), utf8=True)))
    for format in ("JPEG", "PNG", "WEBP", "TIFF"):
        (folder / f"x.{format.lower()}").write_bytes(embedded(format, "hill"))
    found = ingest(folder, "xmp")
    assert by_name(found) == {
        "whole.jpg": ["cat", "dog"], "stem.jpg": ["Hündin"], "i.jpg": ["Grün", "sea side"], "l.jpg": ["Grün"],
        "u.jpg": ["Straße"], "x.jpeg": ["hill"], "x.png": ["hill"], "x.webp": ["hill"], "x.tiff": ["hill"],
    }  # fmt: skip
    assert notes_of(found) == ""
    assert by_name(ingest(folder / "*.webp", "xmp")) == {"x.webp": ["hill"]}


def test_of_keywords_in_several_places_the_first_counts(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    inside = jpeg((0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet("inside").encode()), iptc(b"iptc"))
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        (folder / name).write_bytes(inside)
    (folder / "a.jpg.xmp").write_text(packet("whole"))
    (folder / "a.xmp").write_text(packet("stem"))
    (folder / "b.jpg.xmp").write_text(f"<rdf:RDF {RDF}/>")
    (folder / "b.xmp").write_text(packet("stem"))
    (folder / "c.xmp").write_text(packet())
    found = ingest(folder, "xmp")
    assert by_name(found) == {"a.jpg": ["whole"], "b.jpg": ["stem"], "d.jpg": ["inside"]}
    assert notes_of(found).startswith(
        "images with two different sidecars; the one with the full file name is used: 1 ("
    )


@pytest.mark.parametrize("reason", [name for name in BAD if name != "not UTF-8" and "list" not in name])
def test_an_image_with_a_bad_sidecar_is_left_unlabelled_and_named(tmp_path: Path, reason: str) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(jpeg(iptc(b"old")))
    (folder / "b.jpg").write_bytes(jpeg(iptc(b"good")))
    (folder / "a.jpg.xmp").write_bytes(str(BAD[reason]).encode())
    found = ingest(folder, "xmp")
    assert by_name(found) == {"b.jpg": ["good"]}
    assert reason in found.text()
    assert f"{folder}/a.jpg.xmp" in found.text()


def test_marks_of_programs_are_no_labels(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", ["a.jpg", "b.jpg"])
    deep = "<lr:hierarchicalSubject><rdf:Bag><rdf:li>darktable|format|rw2</rdf:li><rdf:li>animal|cat</rdf:li></rdf:Bag>"
    (folder / "a.jpg.xmp").write_text(
        packet("cat", "darktable", "format", "rw2", more=f"{deep}</lr:hierarchicalSubject>")
    )
    (folder / "b.jpg.xmp").write_text(packet(more=f"{deep}</lr:hierarchicalSubject>"))
    assert by_name(ingest(folder, "xmp")) == {"a.jpg": ["cat"], "b.jpg": ["cat"]}


def test_tags_that_were_exported_are_no_labels(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", ["a.jpg", "b.jpg", "c.jpg"])
    (folder / "a.jpg.xmp").write_text(packet("own"))
    (folder / "b.jpg").write_bytes(jpeg(iptc(b"own")))
    tag(folder, {"a.jpg": ["cat"], "b.jpg": ["cat"], "c.jpg": ["cat"]})
    assert keywords(folder / "b.jpg.xmp")[0] == ["own", "cat"]  # programs that find a sidecar do not look into the file
    found = ingest(folder, "xmp")
    assert by_name(found) == {"a.jpg": ["own"], "b.jpg": ["own"]}
    assert "images with keywords that `tagger export` wrote, which are predictions, not labels: 3 (" in notes_of(found)


def test_sidecars_are_found_where_nothing_else_gives_labels(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", ["a.jpg", "deep/b.jpg"])
    tag(folder, {"a.jpg": ["cat"]})
    assert by_name(ingest(folder)) == {}  # tags alone
    (folder / "deep" / "b.xmp").write_text(packet("own"))
    found = ingest(folder)
    assert by_name(found) == {"b.jpg": ["own"]}
    assert "labels: xmp (" in found.text()
    (folder / "labels.csv").write_text("file_name,label\na.jpg,csv\n")
    assert by_name(ingest(folder)) == {"a.jpg": ["csv"]}


def test_class_folders_come_before_sidecars(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", ["ant/a.jpg", "bee/b.jpg"])
    (folder / "ant" / "a.xmp").write_text(packet("own"))
    found = ingest(folder)
    assert by_name(found) == {"a.jpg": ["ant"], "b.jpg": ["bee"]}
    assert "XMP sidecars next to images in class folders, not read; --labels xmp reads them: 1" in found.text()
    assert by_name(ingest(folder, "xmp")) == {"a.jpg": ["own"]}


def test_a_file_called_xmp_is_a_label_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_images(tmp_path / "photos", ["a.jpg"])
    (tmp_path / "xmp").write_text("file_name,label\na.jpg,cat\n")
    monkeypatch.chdir(tmp_path)
    assert by_name(ingest(folder, "xmp")) == {"a.jpg": ["cat"]}


def test_keywords_correct_the_labels_of_a_training_set(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", ["ant/a.jpg", "bee/b.jpg"])
    (folder / "ant" / "a.jpg.xmp").write_text(packet("bee"))
    found = corrected(str(folder), read_labelled(str(folder)), "xmp")
    assert by_name(found) == {"a.jpg": ["bee"], "b.jpg": ["bee"]}


def test_keywords_of_exiftool_are_read(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", ["a.jpg", "b.jpg", "c.png"])
    arguments = ["-overwrite_original", "-IPTC:Keywords=sea side", "-IPTC:Keywords=Grün", "-codedcharacterset=utf8"]
    exiftool(folder / "a.jpg")
    subprocess.run(["exiftool", "-q", *arguments, folder / "a.jpg"], check=True)
    subprocess.run(["exiftool", "-q", "-XMP-dc:Subject=hill", "-o", folder / "b.jpg.xmp"], check=True)
    subprocess.run(["exiftool", "-q", "-overwrite_original", "-XMP-dc:Subject=c", folder / "c.png"], check=True)
    assert by_name(ingest(folder, "xmp")) == {"a.jpg": ["Grün", "sea side"], "b.jpg": ["hill"], "c.png": ["c"]}
