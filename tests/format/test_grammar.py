"""Keys, dtypes, schemas, strict JSON and manifests: the closed grammar."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
import model as m

from rlcli.errors import CorruptError, IncompatibleError, ResourceError, RLError
from rlcli.format import dataset_json, generations, manifest, strictjson
from rlcli.format.dataset import Dataset
from rlcli.format.keys import check_key, check_keys
from rlcli.format.schema import Column, Schema, ted_schema
from rlcli.format.specs import Box, Composite, Discrete, spec_from_json
from rlcli.format.verify import verify
from rlcli.format.writer import Writer


@pytest.mark.parametrize(
    "key",
    [
        ("observation",),
        ("next", "reward"),
        ("a.b", "c+d=e@f-g_h"),
        ("0",),
        ("x" * 63,),
        ("a",) * 16,
        ("combat",),
    ],
)
def test_good_keys(key: tuple[str, ...]) -> None:
    assert check_key(key) == key


@pytest.mark.parametrize(
    "key",
    [
        (),
        ("",),
        ("a b",),
        ("a/b",),
        ("..",),
        (".a",),
        ("a.",),
        ("é",),
        ("x" * 64,),
        ("a",) * 17,
        ("shape",),
        ("a", "device"),
        ("_type",),
        ("a.shape",),
        ("a.MEMMAP",),
        ("meta.json",),
        ("con",),
        ("Com1.x",),
        ("a\n",),
        ("a\0",),
        ("-a",),
    ],
)
def test_bad_keys(key: tuple[str, ...]) -> None:
    with pytest.raises(IncompatibleError):
        check_key(key)


@given(st.text(max_size=70))
def test_a_good_key_names_a_plain_file(text: str) -> None:
    try:
        check_key((text,))
    except IncompatibleError:
        return
    assert text == Path(text).name
    assert text.isascii()
    assert 0 < len(text) < 64


@pytest.mark.parametrize(
    "keys", [[("a",), ("A",)], [("a",), ("a",)], [("a",), ("a", "b")], [("a", "b"), ("A", "c")]]
)
def test_keys_that_collide(keys: list[tuple[str, ...]]) -> None:
    with pytest.raises(IncompatibleError):
        check_keys(keys)


def test_a_schema_survives_json() -> None:
    spec = Composite({"pixels": Box((4, 4), "uint8"), "speed": Box((), "float64")})
    for layout in ("derived", "plain"):
        schema = ted_schema(
            spec, Discrete(3), extra=[Column(("value",), "bfloat16", (2,))], next_observation=layout
        )  # type: ignore[arg-type]
        assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema
    assert schema.column(("action",)).dtype == "int64"
    with pytest.raises(IncompatibleError, match="no column 'rewards'"):
        schema.column(("rewards",))


@pytest.mark.parametrize(
    "columns",
    [
        [],
        [Column(("a",), "float8")],
        [Column(("a",), "int8", (0,))],
        [Column(("a",), "int8", (1 << 41,))],
        [Column(("b",), "int8", (), "derived", ("a",))],
        [Column(("a",), "int8"), Column(("b",), "int16", (), "derived", ("a",))],
        [
            Column(("a",), "int8"),
            Column(("b",), "int8", (), "derived", ("a",)),
            Column(("c",), "int8", (), "derived", ("b",)),
        ],
    ],
)
def test_schemas_that_cannot_be(columns: list[Column]) -> None:
    with pytest.raises(IncompatibleError):
        Schema(tuple(columns))


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        '{"a": NaN}',
        '{"a": Infinity}',
        '{"a": 1e999}',
        '{"a": 9007199254740993}',
        "[1]",
        '{"a": }',
        '{"a": ' + "[" * 40 + "]" * 40 + "}",
        "[" * 100_000,
        '{"a": 1' + "0" * 10_000 + "}",
    ],
)
def test_json_that_is_not_strict(text: str) -> None:
    with pytest.raises(CorruptError, match=r"x\.json"):
        strictjson.load(text.encode(), Path("x.json"))


def test_a_dataset_digest_is_of_the_content_alone(tmp_path: Path) -> None:
    digests = []
    for name, chunk_rows, durability in (("a", 7, "process"), ("b", 64, "commit"), ("c", 1, "interval")):
        model = m.small(tmp_path / name, chunk_rows=chunk_rows, durability=durability)
        digests.append(Dataset.open(tmp_path / name).digest)
    assert len(set(digests)) == 1
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    assert Dataset.open(tmp_path / "copy").digest == digests[0]
    m.small(tmp_path / "d", seed=1)
    assert Dataset.open(tmp_path / "d").digest != digests[0]
    model = m.create(tmp_path / "open", segment_rows=32, num_streams=2, chunk_rows=10)
    m.fill(model, 150)
    model.writer.flush()
    opened = Dataset.open(tmp_path / "open").digest
    model.writer.writer.abort()
    assert Dataset.open(tmp_path / "open").digest == opened


def _rewrite(path: Path, **changes: Any) -> None:
    """The newest manifest with some members changed, under a right check value."""
    file = sorted((path / "manifests").iterdir())[-1]
    value = {**json.loads(file.read_text()), **changes}
    file.write_bytes(strictjson.dump_checked(value))


def _segment(**changes: Any) -> dict[str, Any]:
    return {
        "name": "w00-000000000000",
        "stream": 0,
        "first": 0,
        "alloc": 16,
        "state": "sealed",
        "rows": 5,
        "episodes": 0,
        "finals": 0,
        "bytes": 1,
        "sums": "0" * 64,
        "content": "0" * 64,
        **changes,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"segments": [_segment(name="../../etc")]},
        {"segments": [_segment(name="w01-000000000000")]},
        {"segments": [_segment(first=1)]},
        {"segments": [_segment(rows=17)]},
        {"segments": [_segment(rows=0)]},
        {"segments": [_segment(stream=1)]},
        {"segments": [_segment(alloc=1 << 60)]},
        {"segments": [_segment(alloc=-1)]},
        {"segments": [_segment(rows=True)]},
        {"segments": [_segment(sums="x")]},
        {"segments": [_segment(state="half")]},
        {"segments": [_segment(state="open"), _segment(name="w00-000000000005", first=5)]},
        {"segments": [{}]},
        {"segments": [_segment()]},
        {"segments": [_segment(alloc=1 << 39)]},
        {"segments": [_segment(alloc=(1 << 40) + 4096)]},
        {"segments": [_segment(alloc=1 << 41, state="open")]},
        {"segments": [_segment(), _segment(name="w00-000000000005", first=5, alloc=1 << 40, state="open")]},
        {"segments": 7},
        {"streams": [{"id": "x"}]},
        {"kind": "window"},
        {"format": [2, 0]},
        {"features": {"incompat": ["heap"], "ro_compat": [], "compat": []}},
        {"schema": {"columns": []}},
        {"schema": {"columns": [{"key": ["a/b"], "encoding": "plain", "dtype": "int8", "shape": []}]}},
        {"schema": {"columns": [{"key": ["a"], "encoding": "plain", "dtype": "int8", "shape": [1.5]}]}},
        {"schema": {"columns": [{"key": ["a"], "encoding": "zip"}]}},
        {"generation": 9},
        {"dataset": "0" * 32},
        {"spec": []},
        {"magic": "x"},
        {"lineage": None, "schema": None},
    ],
)
def test_lying_manifests_fail_cleanly(tmp_path: Path, changes: dict[str, Any]) -> None:
    m.small(tmp_path / "ds", num_streams=1, steps=5, segment_rows=16)
    _rewrite(tmp_path / "ds", **changes)
    before = m.tree_hashes(tmp_path / "ds")
    with pytest.raises(RLError) as caught:
        m.read_everything(tmp_path / "ds")
    assert caught.value.code in (4, 5)
    assert "\n" not in caught.value.message
    assert m.tree_hashes(tmp_path / "ds") == before


@pytest.mark.parametrize(
    ("alloc", "row_bytes", "window", "streams"),
    [
        (1 << 38, 256, None, 1),  # 2^46 bytes each: what a manifest may say, twice as much as can be reserved
        (1 << 39, 128, None, 1),
        (1 << 40, 64, None, 1),
        (1 << 40, 64, 1 << 52, 1),  # and room for a window of 2^58 bytes
        (1 << 40, 64, None, 8),  # each can be reserved, all together cannot
    ],
)
@pytest.mark.parametrize("check", ["touch", "none"])
def test_what_cannot_be_mapped_is_said(
    tmp_path: Path, alloc: int, row_bytes: int, window: int | None, streams: int, check: Any
) -> None:
    """A manifest may claim more bytes than a process has addresses; its files are not that long."""
    path = tmp_path / "ds"
    schema = Schema((Column(("a",), "uint8", (row_bytes,)),))
    writer = Writer.create(path, schema, spec={}, lineage={}, num_streams=streams, window=window)
    for stream in range(streams):
        writer.write(stream, {("a",): np.zeros((3, row_bytes), np.uint8)})
    writer.commit()
    writer.abort()
    m.read_everything(path)
    entries = Dataset.open(path).manifest.to_json()["segments"]
    _rewrite(path, segments=[entry | {"alloc": alloc} for entry in entries])
    with pytest.raises(RLError) as caught:
        m.read_everything(path, check=check)
    assert caught.value.code == 4
    assert "\n" not in caught.value.message


def test_a_huge_window_is_only_room(tmp_path: Path) -> None:
    """Room for all rows that a window may have is reserved where that is possible, and else not."""
    schema = Schema((Column(("a",), "int64"),))
    with Writer.create(tmp_path / "ds", schema, spec={}, lineage={}, window=1 << 52) as writer:
        writer.write(0, {("a",): np.arange(5)})
        writer.commit()
        with Dataset.open(tmp_path / "ds") as dataset:
            assert dataset.read(("a",)).tolist() == [0, 1, 2, 3, 4]


def _write_for_ever(writer: Writer) -> None:
    while True:
        writer.write(0, {("a",): np.arange(writer.num_rows, writer.num_rows + 4)})
        writer.commit()


def test_a_manifest_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader refuses more at once, and a writer stops before it makes what nobody would read."""
    m.small(tmp_path / "long", num_streams=1, steps=5)
    newest = max((tmp_path / "long" / "manifests").iterdir())
    with open(newest, "r+b") as file:
        file.truncate((1 << 26) + 1)
    with pytest.raises(CorruptError, match="at most 67108864"):
        Dataset.open(tmp_path / "long")

    many = tmp_path / "many"
    writer = Writer.create(many, Schema((Column(("a",), "int64"),)), spec={}, lineage={}, segment_rows=4)
    for limit, value in (("MAX_SEGMENTS", 3), ("MAX_BYTES", 3000)):
        with monkeypatch.context() as patch:
            patch.setattr(generations, limit, value)
            with pytest.raises(ResourceError, match="at most"):
                _write_for_ever(writer)
        committed = writer.num_rows
        writer.abort()
        with Dataset.open(many) as dataset:
            assert len(dataset.segments) >= 3
            np.testing.assert_array_equal(dataset.read(("a",)), np.arange(committed))
        writer = Writer.append(many, lineage={})
    writer.close()
    assert verify(many, deep=True) == []
    monkeypatch.setattr(manifest, "MAX_SEGMENTS", 2)
    _rewrite(many, extra={"not": "seen before"})
    with pytest.raises(CorruptError, match="segments"):
        Dataset.open(many)


def test_unknown_members_are_kept(tmp_path: Path) -> None:
    m.small(tmp_path / "ds", num_streams=1, steps=5)
    _rewrite(
        tmp_path / "ds",
        stats={"return": 1},
        features={"incompat": ["derived"], "ro_compat": [], "compat": ["stats"]},
    )
    Writer.append(tmp_path / "ds", lineage={}).close()
    value = json.loads(sorted((tmp_path / "ds" / "manifests").iterdir())[-1].read_text())
    assert value["stats"] == {"return": 1}
    assert value["features"]["compat"] == ["stats"]
    assert len(Dataset.open(tmp_path / "ds").lineage) == 2


def test_an_unknown_ro_compat_feature_is_read_and_not_written(tmp_path: Path) -> None:
    m.small(tmp_path / "ds", num_streams=1, steps=5)
    _rewrite(tmp_path / "ds", features={"incompat": ["derived"], "ro_compat": ["new"], "compat": []})
    m.read_everything(tmp_path / "ds")
    with pytest.raises(IncompatibleError, match="new"):
        Writer.append(tmp_path / "ds", lineage={})


def test_a_taken_generation_is_refused(tmp_path: Path) -> None:
    m.small(tmp_path / "ds", num_streams=1, steps=5)
    uuid = dataset_json.load(tmp_path / "ds")["uuid"]
    newest = generations.load_newest(tmp_path / "ds", uuid)
    generations.publish(tmp_path / "ds", newest.next(), durable=False)
    with pytest.raises(CorruptError, match="two writers"):
        generations.publish(tmp_path / "ds", newest.next(), durable=False)


def test_the_check_value_is_the_hash_of_the_file_with_zeros(tmp_path: Path) -> None:
    m.small(tmp_path / "ds", num_streams=1, steps=5)
    data = (tmp_path / "ds" / "dataset.json").read_bytes()
    check = json.loads(data)["check"]
    assert hashlib.sha256(data.replace(check.encode(), b"0" * 64)).hexdigest() == check


def test_writer_refuses_what_does_not_fit(tmp_path: Path) -> None:
    schema = ted_schema(Box((2,)), Discrete(2))
    with Writer.create(tmp_path / "ds", schema, spec={}, lineage={}) as writer:
        good = {c.key: np.zeros((3, *c.shape), c.numpy) for c in schema.plain}
        for key, value in (
            (("action",), np.zeros(3, np.int32)),
            (("action",), np.zeros(2, np.int64)),
            (("observation",), np.zeros((3, 3), np.float32)),
            (("new",), np.zeros(3)),
        ):
            with pytest.raises(ValueError):
                writer.write(0, {**good, key: value})
        with pytest.raises(ValueError):
            writer.write(0, {k: v for k, v in good.items() if k != ("action",)})
        with pytest.raises(ValueError, match="cannot end"):
            writer.end_episode(0, terminated=True, truncated=False)
        writer.write(0, good)
        with pytest.raises(ValueError, match="cannot end"):
            writer.end_episode(0, terminated=True, truncated=False, at=4)
    assert Dataset.open(tmp_path / "ds").num_rows == 3
    with pytest.raises(IndexError):
        Dataset.open(tmp_path / "ds").gather(np.array([3]))
    with pytest.raises(IndexError):
        Dataset.open(tmp_path / "ds").read(("action",), 1, 4)


@pytest.mark.parametrize(
    "value",
    [
        {"type": "box", "shape": [2, 2], "dtype": "float32", "low": [0.0], "high": None},
        {"type": "box", "shape": [2], "dtype": "float32", "low": None, "high": []},
        {"type": "discrete", "n": 0},
    ],
)
def test_a_spec_that_cannot_be_is_incompatible(value: dict[str, Any]) -> None:
    with pytest.raises(IncompatibleError, match="malformed"):
        spec_from_json(value)
