"""ONNX models of other programs: exports of Azure Custom Vision (.zip), and .onnx files with a labels.txt next to them.

A model is converted once to tagger's ONNX format, and cached.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import replace

from tagger import storage
from tagger.checkpoint import onnx as onnx_files
from tagger.checkpoint.conversion import LABELS, Foreign, converted
from tagger.checkpoint.info import ModelInfo
from tagger.errors import ModelError, SourceError, first_line

SUFFIXES = (onnx_files.SUFFIX, ".zip")
PROPERTIES = "metadata_properties.json"
VERSION = 1
"""Version of the conversion, part of the name in the cache; increment it when the result changes."""
MAX_FILE = 2 << 30
_OTHERS = {
    "model.pb": "TensorFlow", ".tflite": "TensorFlow Lite", "weights.bin": "TensorFlow.js", ".mlmodel": "Core ML",
    "app.py": "Docker",
}  # fmt: skip


def describe(model: str) -> ModelInfo:
    """Describe an ONNX file of tagger, or of another program with its labels; raises ModelError, MissingExtra."""
    uri = storage.absolute(model)
    found = _read_zip(model, uri) if uri.lower().endswith(".zip") else _read_beside(uri)
    if found is None:
        return onnx_files.describe(model)
    facts = [found.content, "\n".join(found.labels).encode(), json.dumps(found.properties, sort_keys=True).encode()]
    digest = hashlib.sha256(b"\0".join([str(VERSION).encode(), *facts])).hexdigest()[:24]
    cached = str(storage.cache_folder() / "onnx" / f"{digest}{onnx_files.SUFFIX}")
    if not storage.exists(storage.absolute(cached)):
        storage.write_atomic(storage.absolute(cached), converted(found))
    return replace(onnx_files.describe(cached), name=found.name)


def _read_beside(uri: str) -> Foreign | None:
    """Return a model with a labels.txt in its folder; None for a file of tagger, or without labels."""
    try:
        content = storage.read_bytes(uri)
        labels = b"" if b"tagger.schema" in content else storage.read_bytes(storage.join(storage.parent(uri), LABELS))
    except SourceError:
        return None  # describing the file raises the precise error
    if not labels:
        return None
    try:
        properties = storage.read_bytes(storage.join(storage.parent(uri), PROPERTIES))
    except SourceError:
        properties = b"{}"
    return _foreign(uri, content, labels, properties)


def _read_zip(model: str, uri: str) -> Foreign:
    try:
        with zipfile.ZipFile(io.BytesIO(storage.read_bytes(uri))) as archive:
            sizes = {each.filename.rpartition("/")[2].lower(): each for each in archive.infolist() if not each.is_dir()}
            if large := [name for name, each in sizes.items() if each.file_size > MAX_FILE]:
                raise ModelError(f"{model}: {large[0]} is larger than {MAX_FILE >> 30} GB")
            network = next((name for name in sizes if name.endswith(onnx_files.SUFFIX)), None)
            if network is None:
                raise ModelError(f"{model}: {_what_else(list(sizes))}")
            if LABELS not in sizes:
                raise ModelError(f"{model}: has no {LABELS}; expected an ONNX export of Azure Custom Vision")
            files = [archive.read(sizes[name]) if name in sizes else b"{}" for name in (network, LABELS, PROPERTIES)]
    except SourceError as error:
        raise ModelError(str(error)) from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise ModelError(f"{model}: the zip file is damaged or encrypted ({first_line(error)})") from error
    return _foreign(uri, *files)


def _what_else(names: list[str]) -> str:
    kind = next((kind for suffix, kind in _OTHERS.items() if any(name.endswith(suffix) for name in names)), None)
    if kind is None:
        return "holds no .onnx file; expected an ONNX export of Azure Custom Vision"
    return f"an export of Azure Custom Vision for {kind}, which does not run here; export the iteration for ONNX"


def _foreign(uri: str, content: bytes, labels: bytes, properties: bytes) -> Foreign:
    name = uri.rpartition("/")[2]
    lines = labels.decode("utf-8-sig", "replace").splitlines()
    names = tuple(line.strip() for line in lines if line.strip())
    if len(set(names)) != len(names) or not names:
        raise ModelError(f"{name}: {LABELS} must have a different label on every line")
    try:
        facts = json.loads(properties)
    except ValueError as error:
        raise ModelError(f"{name}: {PROPERTIES} is not valid JSON") from error
    return Foreign(name, content, names, facts if isinstance(facts, dict) else {})
