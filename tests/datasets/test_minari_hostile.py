"""Minari: damaged, lying and hostile input is one line and leaves nothing."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image

from rlcli.errors import CorruptError, IncompatibleError, InputError, RLError
from rlcli.format.dataset import Dataset
from rlcli.pipeline.convert import convert
from tests.datasets.minari_made import (
    BOX,
    FORMATS,
    TWO,
    buffers,
    imported,
    rewrite,
    written,
)

pytestmark = pytest.mark.usefixtures("minari_root")


def refused(path: Path, kind: type[RLError], match: str, tmp_path: Path) -> None:
    with pytest.raises(kind, match=match) as caught:
        convert(path, tmp_path / "bad", from_="minari")
    assert "\n" not in caught.value.message
    assert not [p for p in tmp_path.iterdir() if "bad" in p.name]


def test_lengths_that_disagree_are_named(tmp_path: Path) -> None:
    path = written(buffers(BOX, TWO), BOX, TWO)
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        file["episode_1/actions"].resize((1,))
    refused(path, InputError, "episode_1: lengths disagree", tmp_path)


def test_missing_arrays_are_named(tmp_path: Path) -> None:
    path = written(buffers(BOX, TWO), BOX, TWO)
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        del file["episode_2/rewards"]
    refused(path, InputError, "episode_2: rewards is missing", tmp_path)


def test_shapes_that_differ_between_episodes_are_refused(tmp_path: Path) -> None:
    path = written(buffers(BOX, TWO), BOX, TWO)
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        del file["episode_1/observations"]
        file["episode_1/observations"] = np.zeros((3, 5))
    refused(path, IncompatibleError, "which one column cannot hold", tmp_path)


def test_links_out_of_the_file_are_not_followed(tmp_path: Path) -> None:
    path = written(buffers(BOX, TWO), BOX, TWO)
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.zeros((5, 3), np.float32)
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0/observations"]
        file["episode_0/observations"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "x")
    refused(path, InputError, "episode_0: observations is missing", tmp_path)


def test_a_reference_as_an_attribute_is_told_as_text(tmp_path: Path) -> None:
    path = written(buffers(BOX, TWO), BOX, TWO)
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        file["episode_0"].attrs["whole"] = file.ref
    assert convert(path, tmp_path / "out", check=True)["episodes"] == 3


def test_a_truncated_file_is_corrupt(tmp_path: Path) -> None:
    path = written(buffers(BOX, TWO), BOX, TWO)
    file = path / "data" / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refused(path, CorruptError, "damaged HDF5", tmp_path)


@pytest.mark.parametrize("data_format", ["arrow", "parquet"])
def test_truncated_arrow_and_parquet_are_corrupt(tmp_path: Path, data_format: str) -> None:
    path = written(buffers(BOX, TWO), BOX, TWO, data_format)
    file = next((path / "data" / "1").glob(f"*.{data_format}"))
    file.write_bytes(file.read_bytes()[:-40])
    refused(path, CorruptError, f"damaged {data_format} file", tmp_path)


@pytest.mark.parametrize("data_format", ["arrow", "parquet"])
def test_an_episode_without_a_file_or_with_a_wrong_count_is_named(tmp_path: Path, data_format: str) -> None:
    path = written(buffers(BOX, TWO), BOX, TWO, data_format)
    told = path / "data" / "1" / "metadata.json"
    told.write_text(json.dumps({"id": 1, "total_steps": 17}))
    refused(path, InputError, "metadata.json says 17 steps", tmp_path)
    next((path / "data" / "1").glob(f"*.{data_format}")).unlink()
    refused(path, InputError, rf"no \*\.{data_format} file there", tmp_path)


@pytest.mark.parametrize(
    "space",
    ["{", "[]", '{"type": "Box", "shape": [-1], "dtype": "float32", "low": 0, "high": 0}', '{"type": "Box"}',
     '{"type": "Dict", "subspaces": 3}', '{"type": "Box", "shape": [3], "dtype": "O", "low": 0, "high": 1}'],
)  # fmt: skip
def test_malformed_spaces_are_corrupt(tmp_path: Path, space: str) -> None:
    path = written(buffers(BOX, TWO), BOX, TWO)
    rewrite(path, lambda told: told.update(observation_space=space))
    refused(path, CorruptError, "observation_space is malformed", tmp_path)


def test_unknown_spaces_and_formats_are_incompatible(tmp_path: Path) -> None:
    path = written(buffers(BOX, TWO), BOX, TWO)
    rewrite(path, lambda told: told.update(observation_space='{"type": "Graph"}'))
    refused(path, IncompatibleError, "Graph", tmp_path)
    rewrite(path, lambda told: told.update(data_format="csv"))
    refused(path, IncompatibleError, "Graph|csv", tmp_path)


def test_wrong_totals_are_said(tmp_path: Path) -> None:
    path = written(buffers(BOX, TWO), BOX, TWO)
    rewrite(path, lambda told: told.update(total_episodes=5, total_steps=1))
    _, report = imported(path, tmp_path / "ds")
    assert [remark.split(" says ")[1] for remark in report["remarks"]] == [
        "5 episodes, 3 are there",
        "1 steps, 13 are there",
    ]


def test_a_picture_of_another_size_is_corrupt(tmp_path: Path) -> None:
    space = spaces.Box(0, 255, (32, 40, 3), np.uint8)
    path = written(buffers(space, TWO), space, TWO)
    out = io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(out, "JPEG")
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        pictures = list(file["episode_0/observations"][()])
        del file["episode_0/observations"]
        kind = h5py.vlen_dtype(np.uint8)
        made = file["episode_0"].create_dataset("observations", (5,), kind)
        for row, picture in enumerate(pictures):
            made[row] = picture
        made[2] = np.frombuffer(out.getvalue(), np.uint8)
    refused(path, CorruptError, r"an image of \(64, 64, 3, 8\)", tmp_path)
    with pytest.raises(CorruptError, match="64x64"):
        convert(path, tmp_path / "bad", images="decode")


def test_damaged_bytes_give_one_line_or_the_same_rows(tmp_path: Path) -> None:
    path = written(buffers(BOX, TWO, (2, 1)), BOX, TWO)
    file = path / "data" / "main_data.hdf5"
    good = file.read_bytes()
    rng = np.random.default_rng(0)
    messages: list[str] = []
    for round_ in range(25):
        bad = bytearray(good)
        for at in rng.integers(0, len(bad), 6):
            bad[at] ^= 1 << int(rng.integers(8))
        file.write_bytes(bad)
        try:
            convert(path, tmp_path / f"out{round_}", from_="minari")
        except RLError as err:
            messages.append(err.message)
            assert not (tmp_path / f"out{round_}").exists()
    assert not any("\n" in message for message in messages)


@pytest.mark.parametrize("data_format", FORMATS)
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path, data_format: str) -> None:
    path = written(buffers(BOX, TWO), BOX, TWO, data_format=data_format)
    victim = next(file for file in sorted(path.rglob("*")) if file.suffix in (".hdf5", ".arrow", ".parquet"))
    victim.unlink()
    os.mkfifo(victim)
    refused(path, InputError, f"{victim.name}: not a regular file", tmp_path)


def test_numbers_that_are_not_finite_in_metadata_become_their_names(tmp_path: Path) -> None:
    path = written(buffers(BOX, TWO), BOX, TWO)
    told = path / "data" / "metadata.json"
    told.write_text(json.dumps(json.loads(told.read_text()) | {"dataset_size": float("inf")}))
    convert(path, tmp_path / "ds", from_="minari")
    with Dataset.open(tmp_path / "ds") as dataset:
        assert '"inf"' in json.dumps(dataset.extra["source"])


def test_text_of_an_attribute_that_is_not_utf8_is_damage(tmp_path: Path) -> None:
    path = written(buffers(BOX, TWO), BOX, TWO)
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        file["episode_0"].attrs.create("options", b"\xff\xfe", dtype=h5py.string_dtype("utf-8", 2))
    refused(path, CorruptError, "episode_0: text that is not UTF-8", tmp_path)


def test_an_attribute_of_an_odd_type_is_kept_in_words(tmp_path: Path) -> None:
    path = written(buffers(BOX, TWO), BOX, TWO)
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        file["episode_0"].attrs["wide"] = np.longdouble(1) / 4
    convert(path, tmp_path / "ds", from_="minari")
    with Dataset.open(tmp_path / "ds") as dataset:
        (told,) = dataset.read(("info", "episode", "attributes"), 0, 1)
        assert "0.25" in json.dumps(json.loads(told)["wide"])


def test_a_parquet_column_that_is_there_twice_is_corrupt(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = written(buffers(BOX, TWO), BOX, TWO, data_format="parquet")
    file = next(path.rglob("*.parquet"))
    table = parquet.read_table(file)
    parquet.write_table(table.append_column("rewards", table.column("rewards")), file)
    refused(path, CorruptError, "there twice", tmp_path)
