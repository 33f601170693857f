"""TorchRL dumps and TensorDict folders: written here as those libraries write them, or by them."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from rlcli.errors import CorruptError, IncompatibleError, InputError, RLError, UsageError
from rlcli.format.dataset import Dataset
from rlcli.pipeline import convert_parts
from rlcli.pipeline.convert import convert

TREE = "<class 'tensordict._td.TensorDict'>"


def write_tree(folder, values, batch):
    """`TensorDict(values, batch).memmap(folder)`: an array per leaf, text as a NonTensorStack."""
    folder.mkdir(parents=True)
    meta = {}
    for name, value in values.items():
        if isinstance(value, dict):
            write_tree(folder / name, value, batch)
            meta[name] = {"type": "TensorDict"}
        elif isinstance(value, list):
            (folder / name).mkdir()
            told = {"_type": "NonTensorStack", "stack_dim": 0, "device": None, "data": value}
            (folder / name / "meta.json").write_text(json.dumps(told))
            meta[name] = {"type": "NonTensorStack"}
        else:
            (folder / f"{name}.memmap").write_bytes(np.ascontiguousarray(value).tobytes())
            shape, dtype = list(value.shape), f"torch.{value.dtype}"
            meta[name] = {"device": "cpu", "shape": shape, "dtype": dtype, "is_nested": False}
    meta |= {"shape": list(batch), "device": "cpu", "_type": TREE}
    (folder / "meta.json").write_text(json.dumps(meta))


def write_dump(folder, values, batch, *, length, cursor):
    write_tree(folder / "storage", values, batch)
    told = {"metadata": {}, "is_pytree": False, "len": length}
    (folder / "storage" / "storage_metadata.json").write_text(json.dumps(told))
    (folder / "writer").mkdir()
    (folder / "writer" / "metadata.json").write_text(json.dumps({"cursor": cursor, "write_count": 99}))
    (folder / "prefetch.pkl").write_bytes(pickle.dumps(None))
    return folder


def steps(size, ends=(), *, seed=0):
    """TED rows: episodes end at `ends`, the first of these by termination."""
    rng = np.random.default_rng(seed)
    observed = rng.standard_normal((size, 3)).astype("f4")
    following = np.concatenate([observed[1:], observed[:1]])
    following[list(ends)] = rng.standard_normal((len(ends), 3)).astype("f4")
    flags = np.zeros((2, size, 1), bool)
    for number, end in enumerate(ends):
        flags[min(number, 1), end] = True
    false = np.zeros((size, 1), bool)
    return {
        "observation": observed,
        "action": rng.integers(0, 4, size),
        "done": false,
        "terminated": false,
        "truncated": false,
        "sample_log_prob": rng.standard_normal(size).astype("f4"),
        "instruction": [f"go {row // 5}" for row in range(size)],
        "next": {
            "observation": following,
            "reward": rng.standard_normal((size, 1)).astype("f4"),
            "terminated": flags[0],
            "truncated": flags[1],
            "done": flags[0] | flags[1],
        },
    }


def rolled(values, by):
    return {
        name: rolled(value, by) if isinstance(value, dict)
        else value[-by:] + value[:-by] if isinstance(value, list) else np.roll(value, by, 0)
        for name, value in values.items()
    }  # fmt: skip


def test_a_full_ring_begins_at_the_cursor(tmp_path):
    values = steps(20, (6, 12))
    path = write_dump(tmp_path / "dump", rolled(values, 8), [20], length=20, cursor=8)
    report = convert(path, tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert np.array_equal(dataset.read(("observation",)), values["observation"])
        assert np.array_equal(dataset.read(("next", "observation")), values["next"]["observation"])
        assert np.array_equal(dataset.read(("next", "reward")), values["next"]["reward"])
        assert np.array_equal(dataset.read(("sample_log_prob",)), values["sample_log_prob"])
        assert dataset.read(("instruction",)).tolist() == values["instruction"]
        assert dataset.episodes.length.tolist() == [7, 6, 7]
        assert dataset.episodes.terminated.tolist() == [True, False, False]
        assert dataset.episodes.cut.tolist() == [False, False, True]
        assert dataset.spec["action"] == {"type": "discrete", "n": 4, "start": 0}
        keys = {column.key[0] for column in dataset.schema.given}
        assert "source" not in keys  # flags that ours say too are not kept twice
    assert report["format"] == "torchrl"
    assert report["next_observation"] == "derived"
    assert "1 pickles are not read (prefetch.pkl)" in report["remarks"]


def test_a_buffer_that_is_not_full_begins_at_its_first_row(tmp_path):
    values = steps(20, (6,))
    path = write_dump(tmp_path / "dump", values, [20], length=11, cursor=11)
    convert(path, tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert np.array_equal(dataset.read(("observation",)), values["observation"][:11])
        assert dataset.episodes.length.tolist() == [7, 4]


def test_two_axes_are_time_and_environments(tmp_path):
    columns = [steps(10, (3,), seed=1), steps(10, (), seed=2)]
    for each in columns:
        del each["instruction"]
    joined = stack(columns, 1)
    path = write_dump(tmp_path / "dump", rolled(joined, 4), [10, 2], length=20, cursor=4)
    convert(path, tmp_path / "ds", check=True)
    write_tree(tmp_path / "batch", stack(columns, 0), [2, 10])
    with pytest.raises(UsageError, match="nothing says which is time"):
        convert(tmp_path / "batch", tmp_path / "no")
    convert(tmp_path / "batch", tmp_path / "ds2", sets=["time_axis=1"], check=True)
    for name in ("ds", "ds2"):
        with Dataset.open(tmp_path / name) as dataset:
            expected = np.concatenate([each["observation"] for each in columns])
            assert np.array_equal(dataset.read(("observation",)), expected)
            assert dataset.episodes.length.tolist() == [4, 6, 10]
            assert dataset.episodes.cut.tolist() == [False, True, True]


def write_lazy(folder, elements, batch, axis):
    """`LazyStackedTensorDict(*elements, stack_dim=axis).memmap(folder)`."""
    for number, element in enumerate(elements):
        write_tree(folder / str(number), element, batch)
    told = {"_type": "<class 'tensordict._lazy.LazyStackedTensorDict'>", "stack_dim": axis}
    (folder / "meta.json").write_text(json.dumps(told))


def row_of(values, row):
    """One row of a table of steps, without its text."""
    return {
        name: row_of(value, row) if isinstance(value, dict) else np.asarray(value[row])
        for name, value in values.items()
        if not isinstance(value, list)
    }


def test_a_lazy_stack_is_the_rows_that_its_elements_are(tmp_path):
    values = steps(12, (3, 7))
    rows = [row_of(values, row) | {"odd": np.zeros(row + 1, "f4")} for row in range(12)]
    write_lazy(tmp_path / "lazy", rows, [], 0)
    report = convert(tmp_path / "lazy", tmp_path / "ds", check=True)
    assert [line for line in report["lossy"] if "odd" in line]
    with Dataset.open(tmp_path / "ds") as dataset:
        assert np.array_equal(dataset.read(("observation",)), values["observation"])
        assert np.array_equal(dataset.read(("next", "observation")), values["next"]["observation"])
        assert np.array_equal(dataset.read(("next", "reward")), values["next"]["reward"])
        assert dataset.episodes.length.tolist() == [4, 4, 4]
    shutil.rmtree(tmp_path / "lazy" / "5")
    with pytest.raises(CorruptError, match="not every element"):
        convert(tmp_path / "lazy", tmp_path / "again")


def test_a_lazy_stack_of_agents_is_an_axis_of_what_they_see(tmp_path):
    values = steps(6, (3,))
    seen = np.random.default_rng(1).standard_normal((2, 2, 6, 4)).astype("f4")
    write_tree(tmp_path / "tree", values, [6])
    for folder, each in ((tmp_path / "tree", seen[0]), (tmp_path / "tree" / "next", seen[1])):
        write_lazy(folder / "agents", [{"view": each[agent]} for agent in range(2)], [6], 1)
        meta = json.loads((folder / "meta.json").read_text())
        (folder / "meta.json").write_text(json.dumps(meta | {"agents": {"type": "LazyStackedTensorDict"}}))
    convert(tmp_path / "tree", tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        for key, each in ((("observation",), seen[0]), (("next", "observation"), seen[1])):
            assert np.array_equal(dataset.read((*key, "agents", "view")), each.swapaxes(0, 1))


def stack(columns, axis):
    first = columns[0]
    return {
        name: stack([each[name] for each in columns], axis)
        if isinstance(first[name], dict)
        else np.stack([each[name] for each in columns], axis)
        for name in first
    }


def test_trajectory_numbers_end_episodes_too(tmp_path):
    values = steps(12)
    values["collector"] = {"traj_ids": np.repeat([5, 9], 6)}
    values["next"]["observation"][5] += 1
    write_tree(tmp_path / "td", values, [12])
    report = convert(tmp_path / "td", tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.episodes.length.tolist() == [6, 6]
        assert dataset.episodes.truncated.all()
    assert report["repaired"] == 2
    assert report["next_observation"] == "derived"


def test_observations_are_what_is_below_next_too(tmp_path):
    values = steps(8, (7,))
    values["pixels"] = np.arange(8 * 12, dtype=np.uint8).reshape(8, 2, 2, 3)
    values["next"]["pixels"] = np.concatenate([values["pixels"][1:], values["pixels"][:1]])
    values["step_count"] = np.arange(8).reshape(8, 1)
    values["next"]["step_count"] = np.arange(1, 9).reshape(8, 1)
    write_tree(tmp_path / "td", values, [8])
    convert(tmp_path / "td", tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        keys = {column.key for column in dataset.schema.columns}
        assert {("observation", "observation"), ("observation", "pixels"), ("step_count",)} <= keys
        assert np.array_equal(dataset.read(("next", "observation", "pixels")), values["next"]["pixels"])


def test_pieces_are_ranges_of_rows(tmp_path, monkeypatch):
    values = steps(20, (6, 12))
    write_tree(tmp_path / "td", values, [20])
    monkeypatch.setattr(convert_parts, "_GROUP_BYTES", 1)
    monkeypatch.setattr("rlcli.datasets.plain._PIECE_BYTES", 1)
    convert(tmp_path / "td", tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert np.array_equal(dataset.read(("observation",)), values["observation"])


@pytest.mark.parametrize("kind", ["ring", "envs", "unknown"])
def test_import_export_import_is_the_identity(tmp_path, kind):
    if kind == "envs":
        columns = [steps(10, (3,), seed=1), steps(10, (5,), seed=2)]
        for each in columns:
            del each["instruction"]
        path = write_dump(tmp_path / "dump", stack(columns, 1), [10, 2], length=20, cursor=0)
    else:
        values = steps(20, (6, 12))
        if kind == "unknown":
            values["next"]["observation_valid"] = np.ones((20, 1), bool)
            values["next"]["observation_valid"][6] = False
        path = write_dump(tmp_path / "dump", rolled(values, 8), [20], length=20, cursor=8)
    convert(path, tmp_path / "one", check=True)
    report = convert(tmp_path / "one", tmp_path / "out", to="torchrl", check=True)
    assert report["lossy"] == []
    assert not list((tmp_path / "out").rglob("*.pkl"))
    convert(tmp_path / "out", tmp_path / "two", check=True)
    with Dataset.open(tmp_path / "one") as one, Dataset.open(tmp_path / "two") as two:
        assert one.digest == two.digest
        assert one.episodes.cut.tolist() == two.episodes.cut.tolist()
        assert one.unknown_next.tolist() == two.unknown_next.tolist() == ([6] if kind == "unknown" else [])


def test_dumps_of_torchrl_before_0_5_are_read(tmp_path):
    new = write_dump(tmp_path / "new", steps(20, (6, 13)), (20,), length=20, cursor=3)
    old = write_dump(tmp_path / "old", {}, (20,), length=20, cursor=3)
    write_tree(old / "storage" / "_data", steps(20, (6, 13)), (20,))
    for file in (old / "storage" / "_data").rglob("meta.json"):  # which did not name folders yet
        told = json.loads(file.read_text())
        named = {k: v for k, v in told.items() if not isinstance(v, dict) or "type" not in v}
        file.write_text(json.dumps(named | ({"_type": "NonTensorData"} if "_type" not in named else {})))
    shutil.copytree(new / "storage" / "instruction", old / "storage" / "instruction")
    shutil.rmtree(old / "storage" / "_data" / "instruction")
    for name in ("new", "old"):
        convert(tmp_path / name, tmp_path / f"{name}.ds", check=True)
    with Dataset.open(tmp_path / "new.ds") as theirs, Dataset.open(tmp_path / "old.ds") as ours:
        assert ours.digest == theirs.digest


def test_the_plain_tree_alone_can_be_written(tmp_path):
    write_tree(tmp_path / "td", steps(8, (7,)), [8])
    convert(tmp_path / "td", tmp_path / "one")
    convert(tmp_path / "one", tmp_path / "out", to="torchrl", check=True, sets=["plain=true"])
    assert (tmp_path / "out" / "meta.json").exists()
    assert not (tmp_path / "out" / "storage").exists()


@pytest.mark.skipif("RL_TORCHRL_PYTHON" not in os.environ, reason="RL_TORCHRL_PYTHON names no Python")
def test_torchrl_itself_loads_the_export_and_writes_what_we_read(tmp_path):
    values = steps(20, (6, 12))
    path = write_dump(tmp_path / "dump", rolled(values, 8), [20], length=20, cursor=8)
    convert(path, tmp_path / "one")
    convert(tmp_path / "one", tmp_path / "out", to="torchrl")
    script = f"""
import torch
from torchrl.data import LazyMemmapStorage, TensorDictReplayBuffer
buffer = TensorDictReplayBuffer(storage=LazyMemmapStorage(20), batch_size=4)
buffer.loads({str(tmp_path / "out")!r})
assert len(buffer) == 20
rows = buffer[:].exclude("instruction").flatten_keys("/")
rows = {{name: torch.tensor(value.numpy()) for name, value in rows.items()}}
torch.save(rows, {str(tmp_path / "rows.pt")!r})
buffer.sample()
again = TensorDictReplayBuffer(storage=LazyMemmapStorage(15), batch_size=4)
again.extend(buffer[:].exclude("index")[:12])
again.extend(buffer[:].exclude("index")[12:])
again.dumps({str(tmp_path / "peer")!r})
"""
    subprocess.run([os.environ["RL_TORCHRL_PYTHON"], "-c", script], check=True, capture_output=True)
    torch = pytest.importorskip("torch")
    rows = torch.load(tmp_path / "rows.pt", weights_only=True)
    assert np.array_equal(rows["observation"].numpy(), values["observation"])
    assert np.array_equal(rows["next/observation"].numpy(), values["next"]["observation"])
    assert np.array_equal(rows["next/terminated"].numpy(), values["next"]["terminated"])
    convert(tmp_path / "peer", tmp_path / "two", check=True)
    with Dataset.open(tmp_path / "two") as dataset:
        assert np.array_equal(dataset.read(("observation",)), values["observation"][5:])
        assert dataset.episodes.length.tolist() == [2, 6, 7]


def test_hostile_folders_are_one_line(tmp_path):
    sound = write_dump(tmp_path / "sound", steps(12, (6,)), [12], length=12, cursor=0)

    def broken(change):
        path = tmp_path / "broken"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(sound, path)
        change(path)
        return path

    def meta(path, *names, **changes):
        file = path.joinpath(*names, "meta.json")
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    def link(path):
        (path / "storage" / "action.memmap").unlink()
        (path / "storage" / "action.memmap").symlink_to("/dev/zero")

    def shorten(path):
        (path / "storage" / "observation.memmap").write_bytes(bytes(12 * 3 * 4 - 1))

    huge = {"device": "cpu", "shape": [12, 1 << 40], "dtype": "torch.float32", "is_nested": False}
    cases = [
        (shorten, CorruptError, "143 bytes, its shape"),
        (lambda p: (p / "storage" / "action.memmap").unlink(), CorruptError, "missing"),
        (link, CorruptError, "not a regular file"),
        (lambda p: meta(p, "storage", observation=huge), CorruptError, "needs"),
        (lambda p: meta(p, "storage", **{"../../x": huge}), CorruptError, "a name that leaves"),
        (lambda p: meta(p, "storage", shape=[-3]), CorruptError, "shape"),
        (lambda p: meta(p, "storage", shape=[5]), CorruptError, "does not begin with the batch"),
        (lambda p: (p / "storage" / "meta.json").write_text("{"), CorruptError, "damaged JSON"),
        (lambda p: (p / "storage" / "meta.json").write_text("[" * 100_000), CorruptError, "damaged JSON"),
        (lambda p: (p / "storage" / "next" / "meta.json").unlink(), InputError, "no such file"),
        (
            lambda p: (p / "storage" / "storage_metadata.json").write_text('{"len": 99}'),
            CorruptError,
            "99 rows",
        ),
        (
            lambda p: (p / "storage" / "storage_metadata.json").write_text('{"is_pytree": true}'),
            IncompatibleError,
            "no TensorDict",
        ),
    ]
    for change, error, match in cases:
        with pytest.raises(error, match=match):
            convert(broken(change), tmp_path / "ds", from_="torchrl")
        assert not (tmp_path / "ds").exists()
    rng = np.random.default_rng(0)
    files = [p.relative_to(sound) for p in sound.rglob("*.json")]
    for number in range(40):
        path = broken(lambda p: None)
        file = path / files[number % len(files)]
        data = bytearray(file.read_bytes())
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        file.write_bytes(data)
        out = tmp_path / f"out{number}"
        try:
            convert(path, out, from_="torchrl")
        except RLError:
            assert not out.exists()
    assert not [p for p in Path(tmp_path).iterdir() if p.name.startswith(".")]


def test_a_column_of_ours_named_like_observations_stays_what_it_is(tmp_path):
    rows = {"obs": np.ones((4, 2), "f4"), "actions": np.ones((4, 1), "f4"), "rewards": np.ones(4, "f4")}
    rows |= {"states": np.zeros((4, 3), "f4"), "terminals": np.arange(4) == 3, "dones": np.arange(4) > 1}
    np.savez(tmp_path / "x.npz", **rows)
    given = {"obs": "observation/x", "states": "info/states", "dones": "info/dones"}
    convert(tmp_path / "x.npz", tmp_path / "one", mapping=given)
    convert(tmp_path / "one", tmp_path / "dump", to="torchrl", check=True)
    convert(tmp_path / "dump", tmp_path / "two", check=True)
    with Dataset.open(tmp_path / "one") as one, Dataset.open(tmp_path / "two") as two:
        assert one.digest == two.digest


def test_a_compressed_storage_is_named(tmp_path):
    """Its dump has values compressed by a function that it does not name: TorchRL has to read it."""
    (tmp_path / "dump" / "storage" / "compressed_data" / "0").mkdir(parents=True)
    (tmp_path / "dump" / "storage" / "metadata.json").write_text("[]")
    with pytest.raises(IncompatibleError, match="a dump of CompressedListStorage"):
        convert(tmp_path / "dump", tmp_path / "ds")
