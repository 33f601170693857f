"""Sealed datasets through URLs: the rows of the folder, few bytes, and nothing wrong whatever fails."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")
sys.path.insert(0, str(Path(__file__).parent))
import model as m
from serving import Web, in_memory, open_url, serving

from rlcli.errors import CorruptError, InputError
from rlcli.format import generations, origin, strictjson, sums
from rlcli.format.dataset import Dataset
from rlcli.format.location import URL
from rlcli.format.remote import Remote
from rlcli.format.specs import Box
from rlcli.format.sums import BLOCK

WIDE = Box((4096,), "float32")  # 64 rows are a block
ROWS, SEGMENT = 600, 256


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datasets: `wide` of 3 segments and 10 blocks of observations; `small` with two streams."""
    root = tmp_path_factory.mktemp("remote")
    model = m.create(root / "wide", WIDE, segment_rows=SEGMENT, chunk_rows=64, num_streams=1)
    for row in range(ROWS):
        model.add(0, end="truncated" if row % 50 == 49 else "no")
    model.writer.close()
    m.small(root / "small")
    return root


@pytest.fixture
def web(folder: Path) -> Iterator[Web]:
    with serving(folder) as found:
        yield found


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin, "_FIRST_WAIT_SECONDS", 0.0)


def _same(found: Any, expected: Any) -> None:
    for key, value in m.flatten(expected, ()).items():
        np.testing.assert_array_equal(m.flatten(found, ())[key], value, err_msg=str(key))


# The same rows.


@pytest.mark.parametrize("scheme", ["memory", "file", "http", "http with listings"])
@pytest.mark.parametrize("name", ["small", "wide"])
def test_a_url_reads_as_the_folder_does(
    folder: Path, web: Web, tmp_path: Path, scheme: str, name: str
) -> None:
    web.lists = scheme.endswith("listings")
    urls = {"memory": in_memory(folder / name, name), "file": f"file://{folder / name}"}
    rng = np.random.default_rng(0)
    url = urls.get(scheme, f"{web.url}/{name}")
    with Dataset.open(folder / name) as here, open_url(url, tmp_path) as there:
        assert (there.digest, there.snapshot) == (here.digest, here.snapshot)
        assert (there.lineage, there.spec, there.state) == (here.lineage, here.spec, "sealed")
        assert there.unknown_next.tolist() == here.unknown_next.tolist()
        for _ in range(4):
            rows = rng.integers(here.num_rows, size=20)
            _same(there.gather(rows), here.gather(rows))
        low, high = sorted(rng.integers(here.num_rows, size=2).tolist())
        _same(there.read_rows(low, high), here.read_rows(low, high))
        _same(there.read_rows(), here.read_rows())
        for index in range(here.num_episodes):
            assert there.episode(index) == here.episode(index)
        assert not there.refresh().is_changed


def test_text_and_images_come_through_a_url(tmp_path: Path) -> None:
    from rlcli.format.schema import Column, Heap, Schema, heap_column
    from rlcli.format.writer import Writer

    schema = Schema((Column(("a",), "int64"), heap_column(("prompt",), Heap("text"))))
    texts = [f"text {row} " * (row % 70_000 if row % 7 == 0 else 3) for row in range(60)]
    with Writer.create(tmp_path / "ds", schema, spec={}, lineage={}, segment_rows=32) as writer:
        for row in range(0, 60, 20):
            writer.write(0, {("a",): np.arange(row, row + 20), ("prompt",): texts[row : row + 20]})
            writer.commit()
    with open_url(f"file://{tmp_path / 'ds'}", tmp_path / "cache") as there:
        rows = np.array([59, 0, 33, 7, 40])
        assert there.gather(rows)["prompt"].tolist() == [texts[row] for row in rows]
        assert there.read(("prompt",)).tolist() == texts


def test_a_pickled_dataset_is_opened_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was opened: at the same snapshot or none, through the same cache, whatever folder one is in."""
    model = m.create(tmp_path / "ds", segment_rows=16, chunk_rows=8, num_streams=1)
    m.fill(model, 40)
    model.writer.flush()
    monkeypatch.chdir(tmp_path)
    newest = Dataset.open("ds", check="none")
    older = Dataset.open("ds", at=newest.snapshot)
    m.fill(model, 30)
    model.writer.close()
    elsewhere = Dataset.open(f"file://{tmp_path / 'ds'}", remote=Remote(cache=tmp_path / "cache"))
    texts = [pickle.dumps(dataset) for dataset in (newest, older, elsewhere)]
    newest.refresh()
    rows = [dataset.read_rows() for dataset in (newest, older, elsewhere)]
    assert len(rows[0]["action"]) > len(rows[1]["action"])
    monkeypatch.chdir("/")
    for text, expected in zip(texts, rows, strict=True):
        with pickle.loads(text) as again:
            _same(again.read_rows(), expected)


def test_an_older_snapshot_opens_through_a_url(tmp_path: Path) -> None:
    model = m.create(tmp_path / "ds", segment_rows=16, chunk_rows=8, num_streams=1)
    m.fill(model, 40)
    model.writer.flush()
    with Dataset.open(tmp_path / "ds") as dataset:
        then, rows = dataset.snapshot, dataset.read_rows()
    m.fill(model, 100)
    model.writer.close()
    url = f"file://{tmp_path / 'ds'}"
    with Dataset.open(url, at=then, remote=Remote(cache=tmp_path / "c")) as dataset:
        assert dataset.snapshot == then
        _same(dataset.read_rows(keys=[("observation",)]), {"observation": rows["observation"]})


# Few bytes.


def test_only_the_blocks_of_the_rows_are_fetched(folder: Path, web: Web, tmp_path: Path) -> None:
    with open_url(web, tmp_path) as there, Dataset.open(folder / "wide") as here:
        assert web.data == []
        key = ("observation",)
        rows = np.array([300, 5])
        _same(there.gather(rows, [key]), here.gather(rows, [key]))
        assert sorted((r.start // BLOCK, r.stop - r.start) for r in web.data) == [(0, BLOCK), (0, BLOCK)]
        there.gather(rows + 1, [key])
        assert len(web.data) == 2
        there.gather(
            np.array([63, 64, 255]), [("next", "observation")]
        )  # rows 64, 65 and, across segments, 256
        assert sorted((r.name.split("/")[3][-4:], r.start // BLOCK) for r in web.data[2:]) == [("0000", 1)]


def test_a_whole_column_comes_in_few_requests_and_zeros_in_none(
    folder: Path, web: Web, tmp_path: Path
) -> None:
    with open_url(web, tmp_path, threads=2) as there:
        there.read(("observation",))
    blocks = -(-ROWS * 4096 * 4 // BLOCK)  # the rest of the last segment is zero
    assert web.data_bytes == blocks * BLOCK
    assert len(web.data) == 3  # segments of four, four and two blocks


def test_reading_on_fetches_ahead(folder: Path, web: Web, tmp_path: Path) -> None:
    with open_url(web, tmp_path) as there:
        for start in range(0, SEGMENT, 8):
            there.read(("observation",), start, start + 8)
    assert len(web.data) == 3  # blocks 0; 1 and 2; 3


def test_a_second_open_fetches_no_data(web: Web, tmp_path: Path) -> None:
    with open_url(web, tmp_path) as there:
        first = there.read_rows()
    web.requests.clear()
    with open_url(web, tmp_path) as there:
        _same(there.read_rows(), first)
        assert web.data == []
    assert {r.name.split("/")[2] for r in web.requests} <= {"dataset.json", "manifests"}


def test_equal_segments_elsewhere_are_not_fetched_again(folder: Path, web: Web, tmp_path: Path) -> None:
    with open_url(web, tmp_path) as there:
        there.read_rows()
    web.requests.clear()
    with open_url(f"file://{folder / 'wide'}", tmp_path) as mirror:
        mirror.read_rows()
    assert web.requests == []


# Nothing wrong.


def _flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 4
    path.write_bytes(data)


def _copy(folder: Path, tmp_path: Path, name: str = "wide") -> Path:
    target = tmp_path / "damaged"
    subprocess.run(["cp", "-r", folder / name, target], check=True)
    return target


def test_a_flipped_bit_is_named_and_not_kept(folder: Path, tmp_path: Path) -> None:
    path = _copy(folder, tmp_path)
    _flip(path / "segments/w00-000000000256/observation.memmap", 2 * BLOCK + 77)
    with serving(tmp_path) as web, Dataset.open(folder / "wide") as here:
        there = open_url(f"{web.url}/damaged", tmp_path / "cache")
        for read in (lambda: there.read_rows(), lambda: there.gather(np.array([256 + 130]))):
            with pytest.raises(CorruptError, match=r"http.*000256/observation\.memmap: block 2 differs"):
                read()
        rows = np.array([256 + 127, 256 + 193])  # its neighbours
        _same(there.gather(rows, [("observation",)]), here.gather(rows, [("observation",)]))
    (kept,) = (tmp_path / "cache").glob("*/*/segments/w00-000000000256/observation.memmap")
    with kept.open("rb") as file:
        file.seek(2 * BLOCK)
        assert not file.read(BLOCK).strip(b"\0")


@pytest.mark.parametrize(
    "name",
    [
        "dataset.json", "manifests/{newest}.json", "manifests/{parent}.json", "sums/w00-000000000000.json",
        "episodes/w00-000000000000/length.memmap",
    ],
)  # fmt: skip
@pytest.mark.parametrize("how", ["flip", "cut", "remove"])
def test_small_files_are_compared_too(folder: Path, tmp_path: Path, name: str, how: str) -> None:
    path = _copy(folder, tmp_path, "small")
    newest = generations.published(path)[-1]
    file = path / name.format(newest=f"{newest:020d}", parent=f"{newest - 1:020d}")
    if how == "flip":
        _flip(file, file.stat().st_size // 2)
    elif how == "cut":
        file.write_bytes(file.read_bytes()[:-3])
    else:
        file.unlink()
    removed = how == "remove" and name == "dataset.json"
    kind = InputError if removed else CorruptError
    with pytest.raises(kind, match="dataset.json" if removed else file.name):
        open_url(f"file://{path}", tmp_path / "cache").read_rows()


def test_a_block_that_is_damaged_in_the_cache_is_fetched_again(web: Web, tmp_path: Path) -> None:
    with open_url(web, tmp_path) as there:
        first = there.read_rows()
    for file in tmp_path.rglob("*.memmap"):
        _flip(file, 0)
    for file in tmp_path.rglob("sums/*.json"):
        file.write_bytes(b"nonsense")
    with open_url(web, tmp_path) as there:
        _same(there.read_rows(), first)


def test_a_cache_that_is_removed_in_use_gives_no_zeros(web: Web, tmp_path: Path) -> None:
    with open_url(web, tmp_path) as there:
        there.gather(np.array([0]))
        for file in tmp_path.rglob("observation.memmap"):
            size = file.stat().st_size
            file.unlink()
            with file.open("wb") as made:
                made.truncate(size)
        with pytest.raises(CorruptError, match="block 1"):
            there.gather(np.array([100]))


def test_the_names_in_a_sums_file_are_not_believed(folder: Path, tmp_path: Path) -> None:
    path = _copy(folder, tmp_path, "small")
    newest = generations.path_of(path, generations.published(path)[-1])
    value = json.loads(newest.read_bytes())
    file = path / "sums" / f"{value['segments'][0]['name']}.json"
    known = json.loads(file.read_bytes())
    known["files"]["../../../../escaped"] = {"bytes": 3, "blocks": [sums.of_bytes(b"abc").blocks[0]]}
    file.write_bytes(strictjson.dump(known))
    value["segments"][0] |= {
        "sums": hashlib.sha256(file.read_bytes()).hexdigest(),
        "bytes": value["segments"][0]["bytes"] + 3,
    }
    newest.write_bytes(strictjson.dump_checked(value))
    with pytest.raises(CorruptError, match="escaped"):
        open_url(f"file://{path}", tmp_path / "a/b/cache").read_rows()
    assert not list(tmp_path.rglob("escaped"))


# Networks.


@pytest.mark.parametrize("fault", ["500", "503", "429", "truncate", "flip", "close"])
def test_what_passes_is_tried_again(folder: Path, web: Web, tmp_path: Path, fault: str) -> None:
    web.fault = lambda name, count: fault if count == 0 and not name.endswith(".json") else None
    with open_url(web, tmp_path) as there, Dataset.open(folder / "wide") as here:
        _same(there.read_rows(), here.read_rows())


@pytest.mark.parametrize("fault", ["500", "truncate", "close"])
def test_what_stays_is_an_error_that_names_the_file(web: Web, tmp_path: Path, fault: str) -> None:
    web.fault = lambda name, count: fault if name.endswith("action.memmap") else None
    with open_url(web, tmp_path) as there:
        with pytest.raises(InputError, match=r"http://.*action\.memmap: cannot be read: .*3 tries"):
            there.read_rows()
        there.read(("observation",))


def test_a_refusal_is_not_tried_again(web: Web, tmp_path: Path) -> None:
    web.fault = lambda name, count: "403"
    with pytest.raises(InputError, match="the server answers 403"):
        open_url(web, tmp_path)
    assert max(web.counts.values()) == 0


def test_no_answer_is_decompressed(web: Web) -> None:
    web.fault = lambda name, count: "swell"
    there = origin.Origin(URL(f"{web.url}/wide"), timeout_seconds=30, retries=0)
    assert len(there.read("dataset.json")) < 1 << 17


def test_a_silent_server_is_not_waited_for_for_ever(web: Web, tmp_path: Path) -> None:
    web.fault = lambda name, count: "hang" if "observation" in name else None
    there = open_url(web, tmp_path, timeout_seconds=3, retries=0)
    with pytest.raises(InputError, match=r"observation\.memmap: cannot be read: no answer within 3 s"):
        there.read(("observation",))


def test_nobody_there_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"http://127\.0\.0\.1:1/ds/dataset\.json: cannot be read"):
        open_url("http://127.0.0.1:1/ds", tmp_path)


def test_a_server_without_ranges_gives_each_file_once(folder: Path, web: Web, tmp_path: Path) -> None:
    web.has_ranges = False
    with open_url(web, tmp_path) as there, Dataset.open(folder / "wide") as here:
        rows = np.array([599, 3, 270, 150])
        _same(there.gather(rows), here.gather(rows))
        _same(there.read_rows(), here.read_rows())
    assert max(web.counts[r.name] for r in web.data) == 0


# Processes.

READ = """
import sys
import numpy as np
from pathlib import Path
from rlcli.format.dataset import Dataset
from rlcli.format.remote import Remote
remote = Remote(cache=Path(sys.argv[2]))
with Dataset.open(sys.argv[1], remote=remote) as there, Dataset.open(sys.argv[3]) as here:
    for start in range(0, here.num_rows, 50):
        stop = min(start + 50, here.num_rows)
        assert repr(there.read_rows(start, stop)) == repr(here.read_rows(start, stop))
        key = ("observation",)
        assert np.array_equal(there.read(key, start, stop), here.read(key, start, stop))
print("right")
"""


def _reader(web: Web, cache: Path, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", READ, f"{web.url}/wide", str(cache), str(folder / "wide")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("requests", [1, 4, 9])
def test_a_reader_that_is_killed_leaves_nothing_wrong(
    folder: Path, web: Web, tmp_path: Path, requests: int
) -> None:
    running: list[subprocess.Popen[str]] = []

    def kill(name: str, count: int) -> str | None:
        if running and running[0].poll() is None and len(web.data) >= requests:
            os.kill(running[0].pid, signal.SIGKILL)
            return "truncate"
        return None

    web.fault = kill
    running.append(_reader(web, tmp_path, folder))
    assert running[0].wait() == -signal.SIGKILL
    running[0].communicate()
    web.fault = lambda name, count: None
    with open_url(web, tmp_path) as there, Dataset.open(folder / "wide") as here:
        _same(there.read_rows(), here.read_rows())


def test_processes_share_a_cache(folder: Path, web: Web, tmp_path: Path) -> None:
    readers = [_reader(web, tmp_path, folder) for _ in range(2)]
    for reader in readers:
        out, err = reader.communicate()
        assert (out, err) == ("right\n", "")
    web.requests.clear()
    with open_url(web, tmp_path) as there:
        there.read_rows()
    assert web.data == []


def test_a_cache_that_is_full_forgets_the_dataset_that_nobody_uses(
    folder: Path, web: Web, tmp_path: Path
) -> None:
    limit = {"cache_bytes": 1 << 20}
    small = open_url(web, tmp_path, "small", **limit)
    small.read_rows()
    wide = open_url(web, tmp_path, **limit)
    wide.read_rows()
    assert (tmp_path / small.uuid).exists()  # it is in use
    name, rows = small.uuid, small.read_rows()
    del small
    model = m.small(tmp_path / "another")
    del model
    with open_url(f"file://{tmp_path / 'another'}", tmp_path, **limit) as third:
        third.read_rows()
    assert not (tmp_path / name).exists()
    assert (tmp_path / wide.uuid).exists()
    with open_url(web, tmp_path, "small", **limit) as again:
        _same(again.read_rows(), rows)
