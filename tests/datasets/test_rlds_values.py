"""RLDS: text, ragged values, pictures, and the samples to their numbers."""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.datasets.contract import Request
from rlcli.datasets.example import decode_strings
from rlcli.errors import CorruptError, IncompatibleError, UsageError
from tests.datasets import rlds_files as files
from tests.datasets.rlds_files import DECODE, Found, pixels, toy

SAMPLES = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "rlds"


# -- values that are not numbers of one shape --------------------------------------------------------------


def test_text_is_text_and_other_strings_are_bytes(tmp_path: Path) -> None:
    steps = files.PLAIN | {"said": files.tensor("string"), "raw": files.tensor("string")}
    told = {"steps/said": ["öffne".encode(), b""], "steps/raw": [b"\xff\x00", b"a"]}
    found = Found(toy(tmp_path, files.episode(2) | told, steps=steps))
    assert found.rows["said"] == ["öffne", ""]
    assert found.rows["raw"] == [b"\xff\x00", b"a"]
    heaps = {column.key[0]: column.heap.value for column in found.schema.heaps if column.heap}
    assert heaps == {"said": "text", "raw": "bytes"}


def test_ragged_sequences_are_arrays_of_a_length_each(tmp_path: Path) -> None:
    steps = files.PLAIN | {"tokens": files.sequence(files.tensor("int64"))}
    told = {
        "steps/tokens/ragged_flat_values": np.arange(3),
        "steps/tokens/ragged_row_lengths_0": np.array([3, 0]),
    }
    found = Found(toy(tmp_path, files.episode(2) | told, steps=steps))
    assert [tokens.tolist() for tokens in found.rows["tokens"]] == [[0, 1, 2], []]
    assert found.schema.column(("tokens",)).shape == (-1,)


def test_an_axis_that_never_varies_in_fact_is_fixed(tmp_path: Path) -> None:
    steps = files.PLAIN | {
        "fixed": files.tensor("int32", -1, -1, encoding="zlib"),
        "varies": files.tensor("int32", -1, 2, encoding="bytes"),
    }
    arrays = np.arange(8, dtype=np.int32).reshape(2, 2, 2)
    told = {
        "steps/fixed/value": [zlib.compress(array.tobytes()) for array in arrays],
        "steps/fixed/shape": np.array([[2, 2], [2, 2]]),
        "steps/varies": [arrays.tobytes(), arrays[0].tobytes()],
    }
    found = Found(toy(tmp_path, files.episode(2) | told, steps=steps))
    assert (found.array("fixed") == arrays).all()
    assert [value.shape for value in found.rows["varies"]] == [(4, 2), (2, 2)]


def test_what_no_column_holds_is_said(tmp_path: Path) -> None:
    steps = files.PLAIN | {
        "deep": files.sequence(files.sequence(files.tensor("int64"))),
        "never": files.tensor("float32"),
    }
    told = {
        "steps/deep/ragged_flat_values": np.array([1]), "steps/deep/ragged_row_lengths_0": np.array([1, 0]),
        "steps/deep/ragged_row_lengths_1": np.array([1]),
    }  # fmt: skip
    found = Found(toy(tmp_path, files.episode(2) | told, steps=steps))
    assert {lost.split()[0] for lost in found.report.lossy} == {"steps/deep"}
    assert any("steps/never" in remark for remark in found.report.remarks)


def with_lists(tmp_path: Path, clips: list[np.ndarray]) -> Path:
    """Two steps with lists of strings and pictures, ragged and of one length, and some of the episode."""
    steps = files.PLAIN | {
        "words": files.sequence(files.text()),
        "blobs": files.sequence(files.tensor("string")),
        "pair": files.tensor("string", 2),
        "clip": files.sequence(files.image(9, 12, 3, encoding="png")),
    }
    told = {
        "steps/words/ragged_flat_values": ["ä".encode(), b"", b'"c"'],
        "steps/words/ragged_row_lengths_0": np.array([0, 3]),
        "steps/blobs/ragged_flat_values": [b"\xff", b"x"],
        "steps/blobs/ragged_row_lengths_0": np.array([1, 1]),
        "steps/pair": [b"a", b"b", b"c", b"d"],
        "steps/clip/ragged_flat_values": [files.picture(picture) for picture in clips],
        "steps/clip/ragged_row_lengths_0": np.array([len(clips) - 1, 1]),
        "episode_metadata/tags": [b"t", b"u"],
    }
    tags = files.group(tags=files.sequence(files.text()))
    tree = files.episodes_tree(steps, episode_metadata=tags)
    return files.write_rlds(tmp_path / "toy" / "1.0.0", tree, {"train": [[files.episode(2) | told]]})


def test_lists_of_strings_are_json_and_others_a_list_of_bytes(tmp_path: Path) -> None:
    clips = [pixels(9, 12, 3, seed=seed) for seed in range(4)]
    found = Found(with_lists(tmp_path, clips))
    assert found.report.lossy == []
    assert [json.loads(value) for value in found.rows["words"]] == [[], ["ä", "", '"c"']]
    assert [decode_strings(value) for value in found.rows["blobs"]] == [[b"\xff"], [b"x"]]
    assert [json.loads(value) for value in found.rows["pair"]] == [["a", "b"], ["c", "d"]]
    assert [json.loads(value) for value in found.rows["info/episode/tags"]] == [["t", "u"]] * 2
    kept = [decode_strings(value) for value in found.rows["clip"]]
    assert kept == [[files.picture(picture) for picture in clips[:3]], [files.picture(clips[3])]]


def test_lists_of_pictures_are_decoded_to_arrays(tmp_path: Path) -> None:
    clips = [pixels(9, 12, 3, seed=seed) for seed in range(4)]
    rows = Found(with_lists(tmp_path, clips), DECODE).rows["clip"]
    assert (rows[0] == np.stack(clips[:3])).all()
    assert (rows[1] == np.stack(clips[3:])).all()


def test_a_feature_that_some_episodes_lack_is_zero_there_and_counted(tmp_path: Path) -> None:
    steps = files.PLAIN | {"force": files.tensor("float32", 2), "said": files.text()}
    told = {"steps/force": np.ones(4, np.float32), "steps/said": [b"a", b"a"]}
    found = Found(toy(tmp_path, files.episode(2) | told, files.episode(1), steps=steps))
    assert found.array("force").tolist() == [[1, 1], [1, 1], [0, 0]]
    assert found.rows["said"] == ["a", "a", ""]
    assert found.report.details["absent steps/force"] == 1


# -- pictures ----------------------------------------------------------------------------------------------


def with_pictures(tmp_path: Path, feature: Any, *pictures: bytes) -> Path:
    steps = files.PLAIN | {"observation": files.group(state=files.tensor("float32", 3), eye=feature)}
    return toy(
        tmp_path, files.episode(len(pictures)) | {"steps/observation/eye": list(pictures)}, steps=steps
    )


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((9, 12, 3), "uint8"), ((9, 12, 1), "uint8"), ((9, 12, 4), "uint8"), ((9, 12, 1), "uint16")],
)
def test_png_keeps_its_pixels_kept_or_decoded(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    wanted = [pixels(*shape, dtype=dtype, seed=seed) for seed in range(2)]
    encoded = [files.picture(value) for value in wanted]
    folder = with_pictures(tmp_path, files.image(*shape, dtype=dtype, encoding="png"), *encoded)
    decoded = Found(folder, DECODE).array("observation/eye")
    assert decoded.dtype == dtype
    assert (decoded == np.stack(wanted)).all()
    kept = Found(folder)
    assert kept.rows["observation/eye"] == encoded
    column = kept.schema.column(("observation", "eye"))
    assert (column.shape, column.dtype, column.heap and column.heap.codec) == (shape, dtype, "png")
    assert ("next", "observation", "eye") in kept.schema.by_key


def test_float32_depth_is_four_bytes_of_a_png(tmp_path: Path) -> None:
    depth = np.random.default_rng(0).normal(size=(2, 9, 12, 1)).astype(np.float32)
    encoded = [files.picture(value.view(np.uint8)) for value in depth]
    folder = with_pictures(tmp_path, files.image(9, 12, 1, dtype="float32"), *encoded)
    for request in (DECODE, Request()):
        assert (Found(folder, request).array("observation/eye") == depth).all()


def test_jpeg_is_decoded_accurately_unless_told_otherwise(tmp_path: Path) -> None:
    simplejpeg = pytest.importorskip("simplejpeg")
    encoded = files.picture(pixels(32, 48, 3), "jpeg")
    folder = with_pictures(tmp_path, files.image(32, 48, 3, encoding="jpeg"), encoded)
    accurate = Found(folder, DECODE).array("observation/eye")[0]
    fast = Found(folder, DECODE, dct="fast").array("observation/eye")[0]
    assert (accurate == simplejpeg.decode_jpeg(encoded)).all()
    assert (fast == simplejpeg.decode_jpeg(encoded, fastdct=True)).all()
    assert (accurate != fast).any()
    with pytest.raises(UsageError, match="--images decode"):
        Found(folder, dct="fast")


def test_grey_pictures_become_colour_where_the_features_say_so(tmp_path: Path) -> None:
    grey = pixels(9, 12, 1)
    folder = with_pictures(
        tmp_path, files.image(9, 12, 3), files.picture(grey), files.picture(pixels(9, 12, 3))
    )
    for request in (DECODE, Request()):
        found = Found(folder, request)
        assert (np.stack(found.rows["observation/eye"])[0] == np.repeat(grey, 3, axis=2)).all()
    assert any("several encodings" in remark for remark in found.report.remarks)


def test_a_size_that_features_leave_open_is_that_of_the_pictures(tmp_path: Path) -> None:
    folder = with_pictures(tmp_path, files.image(-1, -1, 3), files.picture(pixels(9, 12, 3)))
    assert Found(folder).schema.column(("observation", "eye")).shape == (9, 12, 3)


def test_pictures_of_several_sizes_stay_bytes(tmp_path: Path) -> None:
    encoded = [files.picture(pixels(9, 12, 3)), files.picture(pixels(8, 8, 3))]
    folder = with_pictures(tmp_path, files.image(-1, -1, 3), *encoded)
    assert Found(folder).rows["observation/eye"] == encoded
    with pytest.raises(IncompatibleError, match="2 sizes"):
        Found(folder, DECODE)


def test_an_empty_picture_is_black(tmp_path: Path) -> None:
    folder = with_pictures(tmp_path, files.image(9, 12, 3), files.picture(pixels(9, 12, 3)), b"")
    assert not Found(folder, DECODE).array("observation/eye")[1].any()
    assert not np.asarray(Found(folder).rows["observation/eye"][1]).any()


def test_damaged_pictures_are_named(tmp_path: Path) -> None:
    whole = files.picture(pixels(32, 48, 3))
    folder = with_pictures(tmp_path, files.image(32, 48, 3), whole[: len(whole) // 2])
    with pytest.raises(CorruptError, match=r"record at 0: steps/observation/eye: the picture is damaged"):
        Found(folder, DECODE)
    folder = with_pictures(tmp_path / "b", files.image(32, 48, 3), b"no picture at all")
    with pytest.raises(CorruptError, match="no picture"):
        Found(folder)
    folder = with_pictures(tmp_path / "c", files.image(32, 32, 3), whole)
    with pytest.raises(CorruptError, match=r"32x48, features\.json says"):
        Found(folder)


# -- published and peer-written files ----------------------------------------------------------------------


@pytest.mark.skipif(not SAMPLES.exists(), reason="the sample files are not here")
def test_the_peer_written_sample_to_its_numbers() -> None:
    found = Found(SAMPLES / "synth_rlds_tfrecord", DECODE, split="train")
    assert found.lengths == [3, 5, 9, 1, 12]
    assert sum(end.terminated for end in found.ends) == 2
    wanted = {
        "next/reward": 2.0, "action/world_vector": -7.043275, "action/gripper": 13, "action/mode": 28,
        "int_big": -32985348833395, "observation/cnt": -115, "observation/contact": 58,
        "observation/f16": 2.568123, "observation/joint_matrix": -11.071969, "observation/state": 9.405808,
        "observation/depth": 755383531, "observation/wrist_image": 11666191, "observation/image": 29946528,
    }  # fmt: skip
    for key, total in wanted.items():
        assert found.array(key).astype(np.float64).sum() == pytest.approx(
            total, abs=1e-6 if total < 1e6 else 0.5
        )
    assert sum(tokens.sum() for tokens in found.rows["ragged"]) == 25
    assert any(not said.isascii() for said in found.rows["language_instruction"])
    dtypes = {
        key: found.array(key).dtype.name
        for key in ("observation/cnt", "observation/f16", "observation/state")
    }
    assert dtypes == {
        "observation/cnt": "int16",
        "observation/f16": "float16",
        "observation/state": "float64",
    }
    if "simplejpeg" in sys.modules:
        fast = Found(SAMPLES / "synth_rlds_tfrecord", DECODE, split="train", dct="fast")
        assert fast.array("observation/image").sum() == 29717204
    assert Found(SAMPLES / "synth_rlds_tfrecord", split="val").lengths == [3, 9]


@pytest.mark.skipif(not SAMPLES.exists(), reason="the sample files are not here")
def test_the_published_bridge_sample() -> None:
    found = Found(SAMPLES / "bridge", DECODE)
    assert found.lengths == [3]
    assert found.ends[0].terminated
    assert found.array("observation/image").shape == (3, 480, 640, 3)
    assert not found.array("observation/image").any()
    assert {key for key in found.rows if key.startswith("action")} == {
        "action/terminate_episode", "action/world_vector", "action/open_gripper", "action/rotation_delta"
    }  # fmt: skip
