"""Heap columns in datasets: any history reads back bit for bit, damage and lying schemas are refused."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
import model as m

from rlcli.errors import CorruptError, IncompatibleError, RLError
from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import Column, Heap, Schema, heap_column, shift_column, ted_schema
from rlcli.format.specs import Box, Composite, Discrete
from rlcli.format.verify import verify
from rlcli.format.writer import Writer

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = heap_column(("prompt",), Heap("text"))
IMAGE = heap_column(("image",), Heap("array", "png"), "uint8", (5, 7, 3))


# The schema.


@pytest.mark.parametrize(
    "change",
    [
        {"value": "pickle"}, {"codec": "gzip"}, {"codec": ["png"]}, {"limit": 0}, {"limit": 1 << 40},
        {"limit": 1.5}, {"limit": True}, {"dtype": "float8"}, {"shape": [5, -1, 3]}, {"shape": [5, 7, 2]},
        {"shape": [0, 7, 3]}, {"dtype": "float32"}, {"value": "text"}, {"key": ["a"] * 16}, {"value": None},
        {"dtype": "uint16"}, {"shape": [-1, 7, 3]}, {"encoding": "heaps"},
    ],
)  # fmt: skip
def test_lying_schemas_are_refused(change: dict[str, Any]) -> None:
    good = Schema((IMAGE, Column(("a",), "int8"))).to_json()
    assert Schema.from_json(good).columns[0] == IMAGE
    good["columns"][0] |= change
    with pytest.raises(IncompatibleError):
        Schema.from_json(good)


def test_a_stack_of_a_heap_is_refused() -> None:
    value = Schema((IMAGE,)).to_json()
    value["columns"].append(
        {"key": ["s"], "encoding": "derived", "op": "stack", "of": ["image"], "frames": 2}
    )
    with pytest.raises(IncompatibleError, match="neither plain nor a shift"):
        Schema.from_json(value)


# Datasets.

SPEC = Composite({"image": Box((3, 4, 3), "uint8"), "speed": Box((), "float64")})
EXTRA = [
    heap_column(("prompt",), Heap("text")),
    heap_column(("blob",), Heap("bytes", "zstd")),
    heap_column(("tokens",), Heap("array", "lz4"), "int32", (-1,)),
]


def _schema() -> Schema:
    heaps = {("observation", "image"): Heap("array", "png")}
    return ted_schema(SPEC, Discrete(4), heaps=heaps, extra=EXTRA)


def _step(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "prompt": str(rng.choice(["", "walk", "läuft", "run " * 9])),
        "blob": bytes(int(rng.integers(3))) + rng.bytes(int(rng.integers(40))),
        "tokens": rng.integers(0, 99, int(rng.integers(5))).astype(np.int32),
    }


ENDS = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from(["no"] * 4 + ["terminated", "truncated", "unknown", "flush", "kill", "refresh"]),
    ),
    min_size=1,
    max_size=40,
)


@QUICK
@given(
    events=ENDS, segment_rows=st.sampled_from([1, 3, 8, 4096]), chunk_rows=st.sampled_from([1, 5]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_any_history_reads_back_exactly(
    tmp_path_factory: pytest.TempPathFactory,
    events: list[tuple[int, str]],
    segment_rows: int,
    chunk_rows: int,
    seed: int,
) -> None:
    path = tmp_path_factory.mktemp("heap") / "ds"
    rng = np.random.default_rng(seed)
    options = {
        "spec": {},
        "lineage": {},
        "num_streams": 2,
        "segment_rows": segment_rows,
        "durability": "process",
    }
    writer = EpisodeWriter(Writer.create(path, _schema(), **options), chunk_rows=chunk_rows)
    followed = Dataset.open(path)
    streams: list[list[dict[str, Any]]] = [[], []]
    for stream, event in events:
        if event in ("flush", "kill"):
            writer.flush()
            if event == "kill":
                rows = writer.writer.stream_rows
                writer.writer.abort()
                writer = EpisodeWriter(Writer.append(path, lineage={}, rewind=rows), chunk_rows=chunk_rows)
            continue
        if event == "refresh":
            followed.refresh()
            committed = writer.writer.stream_rows
            _check(followed, [steps[:n] for steps, n in zip(streams, committed, strict=True)], rng)
            continue
        step = {"observation": m.value_of(SPEC, rng), **_step(rng), "end": event != "no", "next": None}
        if event in ("terminated", "truncated"):
            step["next"] = m.value_of(SPEC, rng)
        writer.add(
            stream, observation=step["observation"], action=1, reward=1.0, terminated=event == "terminated",
            truncated=event in ("truncated", "unknown"), next_observation=step["next"],
            **{column.key[0]: step[column.key[0]] for column in EXTRA},
        )  # fmt: skip
        streams[stream].append(step)
    writer.close()
    followed.refresh()
    for dataset in (followed, Dataset.open(path), Dataset.open(path, check="none", single_range=False)):
        _check(dataset, streams, rng)
    assert verify(path, deep=True) == []
    assert followed.digest == Dataset.open(path).digest


def _check(dataset: Dataset, streams: list[list[dict[str, Any]]], rng: np.random.Generator) -> None:
    steps = [step for steps in streams for step in steps]
    assert dataset.num_rows == len(steps)
    if not steps:
        return
    nexts = []
    for own in streams:
        for step, after in zip(own, [*own, None][1:], strict=True):
            nexts.append(step["next"] if step["end"] else after and after["observation"])
    order = rng.integers(0, len(steps), 2 * len(steps))
    for nested, rows in ((dataset.read_rows(), range(len(steps))), (dataset.gather(order), order)):
        for at, row in enumerate(rows):
            step, following = steps[row], nexts[row]
            assert nested["prompt"][at] == step["prompt"]
            assert nested["blob"][at] == step["blob"]
            assert np.array_equal(nested["tokens"][at], step["tokens"])
            assert np.array_equal(nested["observation"]["image"][at], step["observation"]["image"])
            image = np.zeros((3, 4, 3)) if following is None else following["image"]
            assert np.array_equal(nested["next"]["observation"]["image"][at], image), row
    index, table = dataset.text(("prompt",), order)
    assert [table[n] for n in index] == [steps[row]["prompt"] for row in order]
    assert len(set(table)) == len(table)
    raw = dataset.encoded(("next", "observation", "image"), order)
    assert [value is None for value in raw] == [nexts[row] is None for row in order]


def _text_dataset(path: Path, values: list[Any], column: Column = TEXT, **options: Any) -> Dataset:
    schema = Schema((column, Column(("n",), "int64")))
    with Writer.create(path, schema, spec={}, lineage={}, **options) as writer:
        for n, value in enumerate(values):
            writer.write(0, {column.key: [value], ("n",): np.array([n])})
            writer.commit()
    return Dataset.open(path)


def _heap_sizes(path: Path) -> list[int]:
    return [file.stat().st_size for file in sorted(path.glob("heaps/*/*.heap"))]


def test_equal_text_is_stored_once_a_segment(tmp_path: Path) -> None:
    values = ["abc", "defg", "abc", "", "defg", "abc"] * 5
    dataset = _text_dataset(tmp_path / "ds", values)
    assert dataset.read(("prompt",)).tolist() == values
    assert _heap_sizes(tmp_path / "ds") == [7]
    index, table = dataset.text(("prompt",), np.arange(4))
    assert (index.tolist(), table) == ([0, 1, 0, 2], ["abc", "defg", ""])


def test_equal_bytes_in_turn_are_stored_once(tmp_path: Path) -> None:
    column = heap_column(("blob",), Heap("bytes"))
    values = [b"abc"] * 4 + [b"de"] * 3 + [b"abc"]
    dataset = _text_dataset(tmp_path / "ds", values, column)
    assert dataset.read(("blob",)).tolist() == values
    assert _heap_sizes(tmp_path / "ds") == [8]


def test_a_resumed_segment_still_knows_its_text(tmp_path: Path) -> None:
    schema = Schema((TEXT, Column(("n",), "int64")))
    sizes = []
    for kills in (0, 3):
        path = tmp_path / str(kills)
        writer = Writer.create(path, schema, spec={}, lineage={})
        for n in range(8):
            writer.write(0, {("prompt",): [f"text {n % 3}"], ("n",): np.array([n])})
            writer.commit()
            if n < kills:
                rows = writer.stream_rows
                writer.write(0, {("prompt",): ["lost"], ("n",): np.array([n])})
                writer.abort()
                writer = Writer.append(path, lineage={}, rewind=rows)
        writer.close()
        assert verify(path, deep=True) == []
        sizes.append(_heap_sizes(path))
    assert sizes[0] == sizes[1] == [18]


def test_rewinding_copies_what_the_kept_rows_need(tmp_path: Path) -> None:
    values = [f"text {n}" for n in range(30)]
    _text_dataset(tmp_path / "ds", values, segment_rows=8)
    Writer.append(tmp_path / "ds", lineage={}, rewind=[19]).close()
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.read(("prompt",)).tolist() == values[:19]
    assert verify(tmp_path / "ds", deep=True) == []


def test_every_flipped_bit_of_a_heap_is_noticed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for state in ("sealed", "open"):
        path = tmp_path / state
        schema = Schema((TEXT, Column(("n",), "int64")))
        writer = Writer.create(path, schema, spec={}, lineage={})
        for n in range(20):
            writer.write(0, {("prompt",): [f"text {n}"], ("n",): np.array([n])})
            writer.commit()
        writer.close() if state == "sealed" else writer.abort()
        (file,) = path.glob("heaps/*/*.heap")
        whole = file.read_bytes()
        for at in rng.integers(0, len(whole), 30).tolist():
            data = bytearray(whole)
            data[at] ^= 1 << int(rng.integers(8))
            file.write_bytes(data)
            with pytest.raises(CorruptError), Dataset.open(path) as dataset:
                dataset.read(("prompt",))
            assert verify(path) != []
        for size in (0, 1, len(whole) - 1):
            file.write_bytes(whole[:size])
            with pytest.raises(CorruptError), Dataset.open(path) as dataset:
                dataset.read(("prompt",))
        file.unlink()
        with pytest.raises(CorruptError), Dataset.open(path) as dataset:
            dataset.read(("prompt",))
        file.write_bytes(whole)
        assert Dataset.open(path).num_rows == 20


@pytest.mark.parametrize(
    ("off", "length"), [(-1, 3), (0, -1), (1 << 62, 1 << 62), (0, 1 << 40), (1000, 1), (3, 1 << 62)]
)
def test_lying_handles_are_refused_even_unchecked(tmp_path: Path, off: int, length: int) -> None:
    _text_dataset(tmp_path / "ds", ["abc", "def"]).close()
    for name, value in (("off", off), ("len", length)):
        (file,) = tmp_path.glob(f"ds/segments/*/prompt/{name}.memmap")
        data = np.frombuffer(file.read_bytes(), np.int64).copy()
        data[1] = value
        file.write_bytes(data.tobytes())
    with Dataset.open(tmp_path / "ds", check="none") as dataset:
        assert dataset.read(("prompt",), 0, 1).tolist() == ["abc"]
        with pytest.raises(RLError):
            dataset.read(("prompt",))


def test_values_are_copied_without_decoding(tmp_path: Path) -> None:
    column = heap_column(("image",), Heap("array", "jpeg"), "uint8", (8, 8))
    out = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(out, "JPEG", quality=20)
    dataset = _text_dataset(tmp_path / "a", [out.getvalue()] * 3, column)
    encoded = dataset.encoded(("image",), np.arange(3))
    assert encoded == [out.getvalue()] * 3
    copied = _text_dataset(tmp_path / "b", encoded, column)
    assert copied.encoded(("image",), np.arange(3)) == encoded
    assert copied.digest == dataset.digest


def test_a_window_takes_its_heaps_along(tmp_path: Path) -> None:
    schema = Schema((TEXT, Column(("n",), "int64")))
    with Writer.create(tmp_path / "ds", schema, spec={}, lineage={}, segment_rows=4, window=6) as writer:
        for n in range(30):
            writer.write(0, {("prompt",): [f"text {n}"], ("n",): np.array([n])})
            writer.commit()
        with Dataset.open(tmp_path / "ds") as dataset:
            assert dataset.read(("prompt",)).tolist() == [f"text {n}" for n in range(24, 30)]
    names = {path.name for path in (tmp_path / "ds" / "segments").iterdir()}
    assert {path.name for path in (tmp_path / "ds" / "heaps").iterdir()} <= names


def test_tensordict_sees_the_handles(tmp_path: Path) -> None:
    pytest.importorskip("tensordict")
    dataset = _text_dataset(tmp_path / "ds", ["abc", "de", "abc"])
    loaded = dataset.open_segment(dataset.segments[0].name)
    assert loaded["prompt", "off"].tolist() == [0, 3, 0]
    assert loaded["prompt", "len"].tolist() == [3, 2, 3]
    assert dataset.read(("prompt", "off")).tolist() == [0, 3, 0]


def test_a_shift_of_text_has_its_finals_in_the_heap(tmp_path: Path) -> None:
    text = heap_column(("observation",), Heap("text"))
    schema = Schema((text, Column(("n",), "int64"), shift_column(("next", "observation"), text)))
    with Writer.create(tmp_path / "ds", schema, spec={}, lineage={}, segment_rows=3) as writer:
        for n in range(8):
            writer.write(0, {("observation",): [f"t{n}"], ("n",): np.array([n])})
            if n in (2, 4):
                writer.end_episode(0, terminated=True, truncated=False, final={("observation",): f"end {n}"})
            if n == 6:
                writer.end_episode(0, terminated=True, truncated=False)
            writer.commit()
    with Dataset.open(tmp_path / "ds") as dataset:
        found = dataset.read(("next", "observation")).tolist()
        assert found == ["t1", "t2", "end 2", "t4", "end 4", "t6", "", ""]
        assert dataset.unknown_next.tolist() == [6, 7]
    assert verify(tmp_path / "ds", deep=True) == []


def test_after_a_power_cut_only_commits_whose_heap_bytes_are_there_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = Schema((TEXT, Column(("n",), "int64")))
    rng = np.random.default_rng(0)
    for lost in (1, 5, 11, 30):
        path = tmp_path / str(lost)
        writer = Writer.create(path, schema, spec={}, lineage={}, durability="process")
        texts = [f"text {rng.integers(6)}" for _ in range(20)]
        ends: list[int] = []
        for n, text in enumerate(texts):
            writer.write(0, {("prompt",): [text], ("n",): np.array([n])})
            writer.commit()
            ends.append(max([*ends[-1:], 6 * len(set(texts[: n + 1]))]))
        writer.abort()
        (file,) = path.glob("heaps/*/*.heap")
        data = file.read_bytes()
        file.write_bytes(data[:-lost] if lost < 10 else data[:-lost] + bytes(lost))
        with monkeypatch.context() as patch:
            patch.setattr("rlcli.format.files.boot_id", lambda: "5" * 32)
            Writer.append(path, lineage={}).close()
        kept = sum(end <= len(data) - lost for end in ends)
        with Dataset.open(path) as dataset:
            assert dataset.read(("prompt",)).tolist() == texts[:kept]
        assert verify(path, deep=True) == []
