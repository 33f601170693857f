"""`features.json` of TensorFlow Datasets: which values an Example holds, with their types and shapes.

The file is the JSON form of TFDS' `feature.proto`, in older files nested `{"type", "content"}`. It is a tree;
what an Example holds are its leaves, named by their path: `steps/observation/image`. How their values are
stored is in `rlds_values.py`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from rlcli.datasets.json_files import read_object
from rlcli.datasets.regular import open_regular
from rlcli.errors import CorruptError, IncompatibleError, InputError
from rlcli.format.keys import DTYPES

Kind = Literal["tensor", "image", "text", "label"]
Shape = tuple[int | None, ...]

MAX_FILE_BYTES = 16 << 20
MAX_ELEMENT_BYTES = 1 << 30  # one decoded value of one step
_MAX_DEPTH = 32
_CORE = "tensorflow_datasets.core.features."


@dataclass(frozen=True)
class Field:
    """A leaf of the tree.

    `lengths` are the sequences around it, outermost first, None where the length varies. `shape` is one
    element's, None for an axis that varies. `dtype` is numpy's name, `bfloat16` or `string`. `encoding` is a
    tensor's (`none`, `zlib`, `bytes`) or an image's format (`jpeg`, `png`, empty if not said).
    """

    path: tuple[str, ...]
    kind: Kind
    dtype: str
    shape: Shape = ()
    encoding: str = "none"
    lengths: tuple[int | None, ...] = ()
    num_classes: int | None = None

    @cached_property
    def name(self) -> str:
        """Its key in an Example."""
        return "/".join(self.path)

    @cached_property
    def is_bytes(self) -> bool:
        """Whether an element is read as one byte string, to be decoded by someone else."""
        return self.kind in ("image", "text") or self.dtype == "string"

    @cached_property
    def innermost_size(self) -> int:
        """Values per element of the innermost sequence: 1 where each is the bytes of all of it."""
        if self.encoding != "none" or (self.is_bytes and self.kind != "tensor"):
            return 1
        return max(1, math.prod(n or 1 for n in self.shape))

    @cached_property
    def elements_size(self) -> int:
        """Values per element of the outermost sequence."""
        return math.prod(n or 1 for n in self.lengths[1:]) * self.innermost_size

    @cached_property
    def depth(self) -> int:
        """How many sequences are within one step, or within the episode for a feature of it."""
        return max(0, len(self.lengths) - (self.path[0] == "steps"))

    @cached_property
    def is_list(self) -> bool:
        """Whether a step (or the episode) has several byte strings of it."""
        return self.is_bytes and (self.depth > 0 or (self.kind == "tensor" and bool(self.shape)))

    @property
    def is_deep(self) -> bool:
        """Whether a step (or the episode) has lists of lists of it, which no column holds."""
        return self.depth + (self.is_list and self.kind == "tensor" and bool(self.shape)) > 1

    @property
    def names(self) -> tuple[str, ...]:
        """The keys of an Example that its values may be under."""
        parts = ["", "/shape", "/value", "/ragged_flat_values"]
        parts += [f"/ragged_row_lengths_{level}" for level in range(max(0, len(self.lengths) - 1))]
        return tuple(self.name + part for part in parts)

    @cached_property
    def is_dynamic(self) -> bool:
        """Whether its elements say their shape beside their values."""
        return self.kind == "tensor" and self.shape.count(None) > 1


def read_features(path: Path) -> tuple[Any, tuple[Field, ...]]:
    """The parsed JSON of a `features.json` and its leaves, in the file's order.

    Raises `InputError` if it cannot be read, `CorruptError` if it is malformed, `IncompatibleError` that
    names the feature for a class that is not known, or tells that the file is too large.
    """
    tree = read_object(path, MAX_FILE_BYTES)
    try:
        return tree, fields_of(tree)
    except CorruptError as err:
        raise CorruptError(f"{path}: {err.message}", path=path) from err
    except IncompatibleError as err:
        raise IncompatibleError(f"{path}: {err.message}", path=path) from err


def fields_of(tree: Any) -> tuple[Field, ...]:
    """The leaves of a parsed `features.json`. Raises as `read_features` does, without the path."""
    return tuple(_leaves(tree, (), ()))


def tree_of(fields: Sequence[Field]) -> dict[str, Any]:
    """The `features.json` of fields, as TFDS writes it: sequences are where `lengths` say, around leaves.

    The first part of a path is the sequence of steps where its fields have lengths.
    """
    top: dict[str, Any] = {}
    for field in fields:
        node = top
        for name in field.path[:-1]:
            node = node.setdefault(name, {})
        node[field.path[-1]] = field
    return _node(top, in_steps=False)


def label_names(folder: Path, field: Field) -> list[str] | None:
    """The names of a ClassLabel, from `<path with dashes>.labels.txt` beside `features.json`."""
    path = folder / f"{'-'.join(field.path)}.labels.txt"
    try:
        with open_regular(path) as file:
            names = [line.strip() for line in file.read(MAX_FILE_BYTES).decode().split("\n")]
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as err:
        raise InputError(f"{path}: cannot be read: {err}", path=path) from err
    return [name for name in names if name]


def _node(tree: dict[str, Any], *, in_steps: bool) -> dict[str, Any]:
    features = {}
    for name, child in tree.items():
        if isinstance(child, Field):
            features[name] = _leaf(child, child.lengths[1:] if in_steps else child.lengths)
        elif name == "steps" and not in_steps:
            features[name] = _sequence(_node(child, in_steps=True), None, "dataset_feature.Dataset")
        else:
            features[name] = _node(child, in_steps=in_steps)
    return {"pythonClassName": _CORE + "features_dict.FeaturesDict", "featuresDict": {"features": features}}


def _leaf(field: Field, lengths: tuple[int | None, ...]) -> dict[str, Any]:
    if lengths:
        return _sequence(_leaf(field, lengths[1:]), lengths[0], "sequence_feature.Sequence")
    shape = {"dimensions": [str(-1 if n is None else n) for n in field.shape]} if field.shape else {}
    match field.kind:
        case "image":
            image = {"shape": shape, "dtype": field.dtype, "encodingFormat": field.encoding}
            return {"pythonClassName": _CORE + "image_feature.Image", "image": image}
        case "text":
            return {"pythonClassName": _CORE + "text_feature.Text", "text": {}}
        case "label":
            content = {} if field.num_classes is None else {"numClasses": str(field.num_classes)}
            return {"pythonClassName": _CORE + "class_label_feature.ClassLabel", "classLabel": content}
        case _:
            tensor = {"shape": shape, "dtype": field.dtype, "encoding": field.encoding}
            return {"pythonClassName": _CORE + "tensor_feature.Tensor", "tensor": tensor}


def _sequence(feature: dict[str, Any], length: int | None, name: str) -> dict[str, Any]:
    content = {"feature": feature, "length": str(-1 if length is None else length)}
    return {"pythonClassName": _CORE + name, "sequence": content}


def _leaves(node: Any, path: tuple[str, ...], lengths: tuple[int | None, ...]) -> Iterator[Field]:
    where = "/".join(path) or "the top"
    if len(path) + len(lengths) > _MAX_DEPTH:
        raise CorruptError(f"{where}: nested more than {_MAX_DEPTH} deep")
    kind, content = _content(node, where)
    match kind:
        case "featuresDict":
            for name, child in _mapping(content.get("features", {}), where).items():
                yield from _leaves(child, (*path, name), lengths)
        case "sequence":
            yield from _leaves(content.get("feature"), path, (*lengths, _length(content, where)))
        case "tensor" | "audio":
            encoding = str(content.get("encoding") or "none").lower()
            if encoding not in ("none", "zlib", "bytes"):
                raise IncompatibleError(f"{where}: unknown tensor encoding {encoding!r}")
            if content.get("lazyDecode"):
                raise IncompatibleError(f"{where}: audio that is still encoded is not supported")
            dtype = _dtype(content.get("dtype", "int64" if kind == "audio" else None), where)
            yield Field(path, "tensor", dtype, _shape(content, where), encoding, lengths)
        case "image" | "video":
            shape = _shape(content, where) or (None,) * (2 if kind == "image" else 3) + (3,)
            dtype = _dtype(content.get("dtype") or "uint8", where)
            if dtype not in ("uint8", "uint16", "float32"):
                raise IncompatibleError(f"{where}: images of {dtype} are not known")
            if kind == "video":
                lengths, shape = (*lengths, shape[0]), shape[1:]
            if len(shape) != 3:
                raise IncompatibleError(f"{where}: an image of shape {show_shape(shape)}, expected 3 axes")
            yield Field(path, "image", dtype, shape, str(content.get("encodingFormat") or ""), lengths)
        case "text":
            yield Field(path, "text", "string", (), "none", lengths)
        case "classLabel":
            classes = content.get("numClasses")
            number = None if classes is None else _integer(classes, where)
            yield Field(path, "label", "int64", (), "none", lengths, number)
        case "boundingBox":
            yield Field(path, "tensor", "float32", (4,), "none", lengths)
        case "translation":
            for language in content.get("languages", []):
                yield Field((*path, str(language)), "text", "string", (), "none", lengths)
        case _:
            raise IncompatibleError(f"{where}: features of kind {kind} are not supported")


#: The key of a feature's content, by the end of its Python class name; for files of the older form.
_CLASSES = {
    "FeaturesDict": "featuresDict", "Sequence": "sequence", "Dataset": "sequence", "Tensor": "tensor",
    "Scalar": "tensor", "Image": "image", "Video": "video", "Audio": "audio", "Text": "text",
    "ClassLabel": "classLabel", "BBoxFeature": "boundingBox", "Translation": "translation",
}  # fmt: skip


def _content(node: Any, where: str) -> tuple[str, dict[str, Any]]:
    """The kind of a feature and what describes it, with the names of the newer form."""
    node = _mapping(node, where)
    if "type" in node and "content" in node:
        name = str(node["type"]).rsplit(".", 1)[-1]
        kind = _CLASSES.get(name)
        if kind is None:
            raise IncompatibleError(f"{where}: unknown feature class {node['type']!r}")
        content = node["content"]
        if isinstance(content, str):
            try:
                content = json.loads(content)
            except (ValueError, RecursionError) as err:
                raise CorruptError(f"{where}: its content is not JSON") from err
        content = _camel(_mapping({} if content is None else content, where))
        if kind == "featuresDict" and "proto_cls" not in node:
            content = {"features": node["content"]}
        return kind, content
    named = _camel(node)
    for kind in _CLASSES.values():
        if kind in named:
            return kind, _camel(_mapping(named[kind], where))
    raise IncompatibleError(f"{where}: unknown feature class {node.get('pythonClassName')!r}")


def _camel(node: dict[str, Any]) -> dict[str, Any]:
    """Proto field names in the spelling of its JSON form; both are allowed in files."""
    names = ("encoding_format", "num_classes", "features_dict", "class_label", "bounding_box", "lazy_decode")
    known = {name: re.sub(r"_(.)", lambda found: found[1].upper(), name) for name in names}
    return {known.get(name, name): value for name, value in node.items()}


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CorruptError(f"{where}: {type(value).__name__}, expected an object")
    return value


def _integer(value: Any, where: str) -> int:
    """An int64 of proto JSON, which is a number or a string of one."""
    try:
        if isinstance(value, bool | float):
            raise ValueError
        return int(value)
    except (TypeError, ValueError) as err:
        raise CorruptError(f"{where}: {value!r}, expected a whole number") from err


def _length(content: dict[str, Any], where: str) -> int | None:
    value = content.get("length")
    length = -1 if value is None else _integer(value, where)
    return None if length < 0 else length


def _shape(content: dict[str, Any], where: str) -> Shape:
    value = content.get("shape") or []
    dimensions = value.get("dimensions", []) if isinstance(value, dict) else value
    if not isinstance(dimensions, list) or len(dimensions) > 32:
        raise CorruptError(f"{where}: its shape is not a list of dimensions")
    sizes = [-1 if size is None else _integer(size, where) for size in dimensions]
    if math.prod(max(size, 1) for size in sizes) > MAX_ELEMENT_BYTES:
        raise IncompatibleError(f"{where}: elements of shape {sizes} are too large")
    return tuple(None if size < 0 else size for size in sizes)


def _dtype(value: Any, where: str) -> str:
    name = "string" if value in ("string", "object", "str", "bytes") else value
    if not isinstance(name, str) or (name != "string" and name not in DTYPES):
        raise IncompatibleError(f"{where}: dtype {value!r} is not storable")
    return name


def show_shape(shape: Shape) -> str:
    """For messages: `(480, ?, 3)`."""
    return "(" + ", ".join("?" if size is None else str(size) for size in shape) + ")"
