"""`rl buffer append` and `compact`: the same episodes, all or none, inputs untouched."""

from __future__ import annotations

import hashlib
import resource
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.format import copying
from rlcli.format.dataset import Dataset
from rlcli.format.digests import episode_digest
from rlcli.format.semantics import check as check_semantics
from rlcli.format.verify import verify


def episode_digests(path: Path) -> list[str]:
    with Dataset.open(path) as dataset:
        table = dataset.episodes
        return [episode_digest(dataset, table, index) for index in range(len(table))]


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_compact_keeps_rows_and_episodes_in_fewer_segments(
    rl: Callable[..., Any], sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "CHUNK_BYTES", 300)  # chunks that begin and end inside episodes
    before = contents(sealed)
    report = rl("compact", sealed, "-o", tmp_path / "out", "--json").json
    assert (report["before"]["segments"], report["segments"]) == (6, 2)
    assert report["disk_bytes"] < report["before"]["disk_bytes"]
    a, b = Dataset.open(sealed), Dataset.open(tmp_path / "out")
    for column in a.schema.columns:
        np.testing.assert_array_equal(a.read(column.key), b.read(column.key))
    for name in vars(a.episodes):
        np.testing.assert_array_equal(getattr(a.episodes, name), getattr(b.episodes, name))
    assert a.unknown_next.tolist() == b.unknown_next.tolist()
    assert episode_digests(sealed) == episode_digests(tmp_path / "out")
    assert verify(tmp_path / "out", deep=True) == []
    assert contents(sealed) == before
    assert "segment_rows" not in b.extra


def test_compact_into_one_stream_gives_repeated_numbers_anew(
    rl: Callable[..., Any], sealed: Path, tmp_path: Path
) -> None:
    rl("merge", sealed, sealed, "-o", tmp_path / "m")
    report = rl("compact", tmp_path / "m", "-o", tmp_path / "out", "--one-stream", "--json").json
    assert (report["streams"], report["segments"], report["rows"]) == (1, 1, 120)
    assert episode_digests(tmp_path / "out") == 2 * episode_digests(sealed)
    assert Dataset.open(tmp_path / "out").episodes.number.tolist() == list(range(20))
    assert list(check_semantics(Dataset.open(tmp_path / "out")).errors) == []


def test_append_adds_episodes_with_new_numbers_and_changes_no_row(
    rl: Callable[..., Any], copy: Path, tmp_path: Path, fill: Callable[..., Any]
) -> None:
    fill(tmp_path / "src", rows=(9, 4))
    old, source = episode_digests(copy), episode_digests(tmp_path / "src")
    before = contents(tmp_path / "src")
    ended = rl("append", copy, tmp_path / "src", tmp_path / "src")
    assert (ended.code, ended.out) == (0, f"{copy}\n")
    assert contents(tmp_path / "src") == before
    with Dataset.open(copy) as dataset:
        assert dataset.stream_rows == [30 + 18, 30 + 8]
        assert len(set(dataset.episodes.number.tolist())) == dataset.num_episodes
        assert list(check_semantics(dataset).errors) == []
        assert [entry["op"] for entry in dataset.lineage] == ["test", "append"]
    assert Counter(episode_digests(copy)) == Counter(old + 2 * source)
    assert verify(copy, deep=True) == []


def test_a_live_source_is_appended_up_to_its_last_commit(
    rl: Callable[..., Any], copy: Path, tmp_path: Path, fill: Callable[..., Any]
) -> None:
    writer = fill(tmp_path / "src", rows=(9, 4), close=False)
    report = rl("append", copy, tmp_path / "src", "--json").json
    assert (report["added_rows"], report["added_episodes"], report["cut_episodes"]) == (13, 3, 2)
    assert verify(copy, deep=True) == []
    assert rl("append", tmp_path / "src", copy).code == 75
    writer.abort()


def test_append_refuses_itself_and_other_columns(rl: Callable[..., Any], copy: Path, tmp_path: Path) -> None:
    from rlcli.format.schema import ted_schema
    from rlcli.format.specs import Box
    from rlcli.format.writer import Writer

    box = Box((2,), "float64")
    Writer.create(tmp_path / "c", ted_schema(box, box), spec={}, lineage={}).close()
    before = contents(copy)
    assert rl("append", copy, copy).code == 2
    ended = rl("append", copy, tmp_path / "c")
    assert ended.code == 5
    assert "column action" in ended.err
    assert contents(copy) == before


@pytest.mark.parametrize("verb", ["append", "compact"])
def test_a_full_disk_ends_with_7_and_leaves_nothing(
    verb: str, rl: Callable[..., Any], copy: Path, tmp_path: Path, fill: Callable[..., Any]
) -> None:
    """Files may not grow beyond 16 KiB: the first large segment fails, as on a full disk."""
    fill(tmp_path / "src")
    names = sorted(path.name for path in tmp_path.iterdir())
    rows = Dataset.open(copy).num_rows
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 10, before[1]))
    try:
        arguments = [copy, tmp_path / "src"] if verb == "append" else [copy, "-o", tmp_path / "out"]
        ended = rl(verb, *arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert ended.code == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert Dataset.open(copy).num_rows == rows
    assert verify(copy) == []


@pytest.mark.parametrize("verb", ["append", "compact"])
def test_an_interruption_leaves_the_rows_as_they_were(
    verb: str, rl: Callable[..., Any], copy: Path, tmp_path: Path, fill: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    fill(tmp_path / "src")
    names = sorted(path.name for path in tmp_path.iterdir())
    pieces = copying.pieces

    def interrupted(*arguments: Any) -> Any:
        for piece in pieces(*arguments):
            signal.raise_signal(signal.SIGINT)
            yield piece

    monkeypatch.setattr(copying, "pieces", interrupted)
    arguments = [copy, tmp_path / "src"] if verb == "append" else [copy, "-o", tmp_path / "out"]
    ended = rl(verb, *arguments)
    assert ended.code == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert Dataset.open(copy).num_rows == 60
    assert verify(copy, deep=True) == []
