"""`features.json` in its variants, and the values that it describes."""

from __future__ import annotations

import json
import random
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.datasets.example import decode, encode
from rlcli.datasets.features import Field, label_names, read_features
from rlcli.datasets.rlds_values import Ragged, count, read
from rlcli.errors import CorruptError, IncompatibleError, InputError, RLError
from tests.datasets.rlds_files import CORE, tensor


def group(**features: Any) -> dict[str, Any]:
    return {"pythonClassName": CORE + "features_dict.FeaturesDict", "featuresDict": {"features": features}}


def sequence(feature: Any, length: str | int = "-1", name: str = "dataset_feature.Dataset") -> dict[str, Any]:
    return {"pythonClassName": CORE + name, "sequence": {"feature": feature, "length": length}}


def fields(tmp_path: Path, tree: Any) -> dict[str, Field]:
    path = tmp_path / "features.json"
    path.write_text(json.dumps(tree))
    return {field.name: field for field in read_features(path)[1]}


def one(tmp_path: Path, feature: Any) -> Field:
    return fields(tmp_path, group(steps=sequence(group(x=feature))))["steps/x"]


def test_leaves_are_named_by_their_path_and_know_the_sequences_around_them(tmp_path: Path) -> None:
    tree = group(
        steps=sequence(
            group(
                observation=group(state=tensor("float64", 8)),
                tokens=sequence(tensor("int64"), name="sequence_feature.Sequence"),
                pair=sequence(tensor("int64"), 2, name="sequence_feature.Sequence"),
            )
        ),
        episode_id=tensor("string"),
    )
    found = fields(tmp_path, tree)
    assert {name: field.lengths for name, field in found.items()} == {
        "steps/observation/state": (None,),
        "steps/tokens": (None, None),
        "steps/pair": (None, 2),
        "episode_id": (),
    }
    assert found["steps/observation/state"].shape == (8,)


def test_key_order_and_absent_values_do_not_matter(tmp_path: Path) -> None:
    shuffled = {
        "tensor": {"encoding": "none", "dtype": "float32", "shape": {}},
        "pythonClassName": "x.Tensor",
    }
    short = {"tensor": {"dtype": "float32"}}
    assert one(tmp_path, shuffled) == one(tmp_path, short) == one(tmp_path, tensor("float32"))


def test_the_older_form_says_the_same(tmp_path: Path) -> None:
    old = {
        "type": CORE + "features_dict.FeaturesDict",
        "content": {
            "steps": {
                "type": CORE + "dataset_feature.Dataset",
                "content": {
                    "length": None,
                    "feature": {
                        "type": CORE + "features_dict.FeaturesDict",
                        "content": {
                            "image": {
                                "type": CORE + "image_feature.Image",
                                "content": {"shape": [4, 6, 3], "dtype": "uint8", "encoding_format": "jpeg"},
                            },
                            "x": {
                                "type": CORE + "tensor_feature.Tensor",
                                "content": {"shape": [None, 3], "dtype": "float32", "encoding": "zlib"},
                            },
                            "mode": {
                                "type": CORE + "class_label_feature.ClassLabel",
                                "proto_cls": "tensorflow_datasets.ClassLabel",
                                "content": '{"numClasses": "3"}',
                            },
                            "text": {"type": CORE + "text_feature.Text", "content": None},
                        },
                    },
                },
            }
        },
    }
    new = group(
        steps=sequence(
            group(
                image={
                    "image": {
                        "shape": {"dimensions": ["4", "6", "3"]},
                        "dtype": "uint8",
                        "encodingFormat": "jpeg",
                    }
                },
                x=tensor("float32", -1, 3, encoding="zlib"),
                mode={"classLabel": {"numClasses": "3"}},
                text={"text": {}},
            )
        )
    )
    assert fields(tmp_path, old) == fields(tmp_path, new)


def test_kinds_beside_tensors(tmp_path: Path) -> None:
    tree = group(
        box={"boundingBox": {}},
        video={
            "video": {
                "shape": {"dimensions": ["-1", "4", "6", "3"]},
                "dtype": "uint8",
                "encodingFormat": "png",
            }
        },
        audio={"audio": {"shape": {"dimensions": ["-1"]}, "dtype": "int64"}},
        both={"translation": {"languages": ["de", "en"]}},
        picture={"image": {}},
    )
    found = fields(tmp_path, tree)
    assert (found["box"].shape, found["box"].dtype) == ((4,), "float32")
    assert (found["video"].kind, found["video"].shape, found["video"].lengths) == (
        "image",
        (4, 6, 3),
        (None,),
    )
    assert found["audio"].shape == (None,)
    assert found["both/de"].kind == "text"
    assert (found["picture"].shape, found["picture"].encoding) == ((None, None, 3), "")


def test_label_names_come_from_the_file_beside(tmp_path: Path) -> None:
    field = Field(("steps", "action", "mode"), "label", "int64", num_classes=3)
    assert label_names(tmp_path, field) is None
    (tmp_path / "steps-action-mode.labels.txt").write_text("idle\nmöve\n\ngrasp\n")
    assert label_names(tmp_path, field) == ["idle", "möve", "grasp"]


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("{", CorruptError, "damaged JSON"),
        ("[" * 100_000, CorruptError, "damaged JSON"),
        ("[]", CorruptError, "list, expected a JSON object"),
        (
            '{"pythonClassName": "my.own.Feature", "jsonFeature": {"json": "{}"}}',
            IncompatibleError,
            "my.own.Feature",
        ),
        ('{"featuresDict": {"features": []}}', CorruptError, "the top"),
        (
            '{"featuresDict": {"features": {"a": {"tensor": {"dtype": "float7"}}}}}',
            IncompatibleError,
            "a: dtype",
        ),
        ('{"tensor": {"dtype": "int8", "shape": {"dimensions": ["x"]}}}', CorruptError, "whole number"),
        (
            '{"tensor": {"dtype": "int8", "shape": {"dimensions": ["99999", "99999"]}}}',
            IncompatibleError,
            "too large",
        ),
        ('{"tensor": {"dtype": "int8", "encoding": "rot13"}}', IncompatibleError, "rot13"),
        ('{"image": {"dtype": "int8"}}', IncompatibleError, "images of int8"),
        ('{"sequence": {"feature": ' * 40 + "{}" + "}}" * 40, CorruptError, "nested more than"),
    ],
)
def test_malformed_files_are_named(tmp_path: Path, text: str, error: type[RLError], says: str) -> None:
    path = tmp_path / "features.json"
    path.write_text(text)
    with pytest.raises(error, match=says) as caught:
        read_features(path)
    assert caught.value.message.startswith(str(path))


def test_an_absent_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        read_features(tmp_path / "features.json")


def test_mutated_files_end_in_a_clean_error_or_fields(tmp_path: Path) -> None:
    tree = group(steps=sequence(group(a=tensor("float32", 3), b={"image": {"shape": {}}}, c={"text": {}})))
    text = json.dumps(tree)
    chance = random.Random(0)
    path = tmp_path / "features.json"
    for _ in range(400):
        at = chance.randrange(len(text))
        piece = chance.choice(["", "[", "{}", "-", "9" * 30, '"', "null", "1e400", "\\u0000"])
        path.write_text(text[:at] + piece + text[at + chance.randrange(4) :])
        try:
            read_features(path)
        except RLError as err:
            assert err.message.startswith(str(path))  # noqa: PT017


# -- values ------------------------------------------------------------------------------------------------


def field(dtype: str, *shape: int | None, encoding: str = "none", lengths: Any = (None,)) -> Field:
    return Field(("x",), "tensor", dtype, shape, encoding, lengths)


def values(field: Field, **stored: Any) -> Any:
    example = decode(encode({name.replace("__", "/"): value for name, value in stored.items()}))
    return read(field, example, 0, count(field, example))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_floats_are_stored_as_float32(dtype: str) -> None:
    array = np.arange(6, dtype=dtype).reshape(2, 3) / 4
    found = values(field(dtype, 3), x=array)
    assert found.dtype == dtype
    assert (found == array).all()


def test_bfloat16_keeps_its_bits() -> None:
    bits = np.array([0x3F80, 0xC040, 0x7F80, 0x0001], np.uint16)
    stored = (bits.astype(np.uint32) << 16).view(np.float32)
    assert values(field("bfloat16"), x=stored).tolist() == bits.tolist()


@pytest.mark.parametrize(
    ("dtype", "numbers"),
    [
        ("bool", [True, False]),
        ("int8", [-128, 127]),
        ("uint8", [0, 255]),
        ("int16", [-32768, 32767]),
        ("uint32", [0, 2**32 - 1]),
        ("int64", [-(2**63), 2**63 - 1]),
        ("uint64", [0, 2**64 - 1]),
    ],
)
def test_integers_are_stored_as_int64(dtype: str, numbers: list[int]) -> None:
    found = values(field(dtype), x=np.array(numbers, dtype))
    assert found.dtype == dtype
    assert found.tolist() == numbers


def test_a_number_that_its_dtype_cannot_hold_is_damage() -> None:
    with pytest.raises(CorruptError, match="x: a value that uint8 cannot hold"):
        values(field("uint8"), x=np.array([256]))


@pytest.mark.parametrize("encoding", ["zlib", "bytes"])
@pytest.mark.parametrize("dtype", ["float64", "bool", "uint64", "int16"])
def test_encoded_tensors_are_the_bytes_of_an_array_per_element(encoding: str, dtype: str) -> None:
    array = (np.arange(12) % 5).astype(dtype).reshape(2, 2, 3)
    parts = [row.tobytes() for row in array]
    stored = [zlib.compress(part) for part in parts] if encoding == "zlib" else parts
    found = values(field(dtype, 2, 3, encoding=encoding), x=stored)
    assert found.dtype == dtype
    assert (found == array).all()


def test_an_axis_that_varies_is_told_by_the_bytes() -> None:
    arrays = [np.arange(n * 3, dtype=np.int32).reshape(n, 3) for n in (2, 0, 5)]
    found = values(field("int32", None, 3, encoding="bytes"), x=[array.tobytes() for array in arrays])
    assert [array.tolist() for array in found] == [array.tolist() for array in arrays]


def test_more_axes_that_vary_are_told_by_the_shape_beside() -> None:
    arrays = [np.arange(n * m, dtype=np.int32).reshape(n, m) for n, m in ((2, 3), (4, 1))]
    shapes = np.array([array.shape for array in arrays])
    stored = {"x__value": [zlib.compress(array.tobytes()) for array in arrays], "x__shape": shapes}
    found = values(field("int32", None, None, encoding="zlib"), **stored)
    assert [array.tolist() for array in found] == [array.tolist() for array in arrays]


def test_a_zlib_bomb_is_not_unpacked() -> None:
    bomb = zlib.compress(bytes(1 << 24))
    with pytest.raises(CorruptError, match="stands for more than 24 bytes"):
        values(field("float32", 2, 3, encoding="zlib"), x=[bomb])


def test_ragged_sequences_have_a_length_per_element() -> None:
    stored = {"x__ragged_flat_values": np.arange(5), "x__ragged_row_lengths_0": np.array([3, 0, 2])}
    found = values(field("int64", lengths=(None, None)), **stored)
    assert isinstance(found, Ragged)
    assert found.flat.tolist() == [0, 1, 2, 3, 4]
    assert found.lengths.tolist() == [3, 0, 2]
    example = decode(encode({name.replace("__", "/"): value for name, value in stored.items()}))
    part = read(field("int64", lengths=(None, None)), example, 1, 3)
    assert isinstance(part, Ragged)
    assert (part.flat.tolist(), part.lengths.tolist()) == ([3, 4], [0, 2])


def test_inner_sequences_of_fixed_length_are_an_axis() -> None:
    stored = {"x__ragged_flat_values": np.arange(6), "x__ragged_row_lengths_0": np.array([2, 2, 2])}
    assert values(field("int64", lengths=(None, 2)), **stored).tolist() == [[0, 1], [2, 3], [4, 5]]
    assert values(field("int64", lengths=(None, 2)), x=np.arange(6)).tolist() == [[0, 1], [2, 3], [4, 5]]
    stored["x__ragged_row_lengths_0"] = np.array([1, 3, 2])
    with pytest.raises(CorruptError, match="another length"):
        values(field("int64", lengths=(None, 2)), **stored)


@pytest.mark.parametrize("lengths", [[3, 0, 3], [-1, 3, 3], [2**62, 2**62, 5]])
def test_row_lengths_that_do_not_fit_are_damage(lengths: list[int]) -> None:
    stored = {"x__ragged_flat_values": np.arange(5), "x__ragged_row_lengths_0": np.array(lengths)}
    with pytest.raises(CorruptError, match="row lengths"):
        values(field("int64", lengths=(None, None)), **stored)


def test_absent_and_empty_features_have_no_elements() -> None:
    for example in (decode(b""), decode(encode({"x": np.empty(0, np.float32)})), decode(encode({"x": []}))):
        assert count(field("float32", 3), example) == 0
        found = read(field("float32", 3), example, 0, 0)
        assert isinstance(found, np.ndarray)
        assert found.shape == (0, 3)


@pytest.mark.parametrize(
    ("told", "stored", "says"),
    [
        (field("float32"), np.arange(3), "integers, features.json says float32"),
        (field("int32"), np.zeros(3, np.float32), "floats, features.json says int32"),
        (field("int32"), [b"a"], "byte strings, features.json says int32"),
        (field("string"), np.arange(3), "features.json says byte strings"),
        (field("float32", 2), np.zeros(3, np.float32), "not a multiple of 2"),
    ],
)
def test_values_of_another_kind_are_named(told: Field, stored: Any, says: str) -> None:
    with pytest.raises(CorruptError, match=says):
        values(told, x=stored)
