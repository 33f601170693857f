"""Datasets at URLs: the newest state where folders are listed and where not, and words for people."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")
sys.path.insert(0, str(Path(__file__).parent))
import model as m
from serving import in_memory, open_url, serving

from rlcli.errors import CorruptError, InputError, MissingExtraError, RLError, UsageError
from rlcli.format import cache as caches
from rlcli.format import generations, origin
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.location import URL, locate
from rlcli.format.writer import Writer


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin, "_FIRST_WAIT_SECONDS", 0.0)


def _generations(path: Path, count: int) -> None:
    model = m.create(path, segment_rows=8, chunk_rows=8, num_streams=1)
    while len(generations.published(path)) < count - 1:
        model.add(0)
    model.writer.close()


@pytest.mark.parametrize("lists", [False, True])
@pytest.mark.parametrize("count", [2, 3, 4, 9, 16, 17])
def test_the_newest_generation_is_found(tmp_path: Path, count: int, lists: bool) -> None:
    _generations(tmp_path / "ds", count)
    newest = generations.published(tmp_path / "ds")[-1]
    with serving(tmp_path) as web:
        web.lists = lists
        web.fault = lambda name, count: "503" if count == 0 else None  # no answer is no "it is not there"
        with open_url(web, tmp_path / "cache", "ds") as there:
            assert there.generation == newest
        asked = [r.name for r in web.requests if "/manifests/" in r.name]
        assert len(asked) <= (4 if lists else 2 * newest.bit_length() + 4)


@pytest.mark.parametrize("scheme", ["file", "http", "http with listings"])
@pytest.mark.parametrize("missing", [1, 5, 8, 11])
def test_a_missing_generation_is_noticed(tmp_path: Path, scheme: str, missing: int) -> None:
    _generations(tmp_path / "ds", 12)
    generations.path_of(tmp_path / "ds", missing).unlink()
    with serving(tmp_path) as web:
        web.lists = scheme.endswith("listings")
        url = f"file://{tmp_path}/ds" if scheme == "file" else f"{web.url}/ds"
        if scheme == "http" and missing == 5:  # nobody asks for it on the way to the newest one
            with open_url(url, tmp_path / "cache") as there:
                assert there.generation == generations.published(tmp_path / "ds")[-1]
        else:
            with pytest.raises(CorruptError, match=f"0{missing}.json: missing|no manifest"):
                open_url(url, tmp_path / "cache")


def test_a_lost_newest_generation_is_noticed_where_folders_are_listed(tmp_path: Path) -> None:
    model = m.create(tmp_path / "ds", segment_rows=8, chunk_rows=8, num_streams=1)
    for _ in range(8):
        model.add(0, end="no")
    model.writer.close()
    sealed = generations.published(tmp_path / "ds")[-1]
    writer = EpisodeWriter(Writer.append(tmp_path / "ds", lineage={"op": "test"}), chunk_rows=8)
    again = m.Model(writer, m.FLAT, np.random.default_rng(1))
    for _ in range(8):
        again.add(0)
    writer.close()
    for generation in generations.published(tmp_path / "ds"):
        if generation > sealed:
            generations.path_of(tmp_path / "ds", generation).unlink()
    for url in (f"file://{tmp_path / 'ds'}", in_memory(tmp_path / "ds", "lost")):
        with pytest.raises(CorruptError, match="missing"):
            open_url(url, tmp_path / "cache")


def test_a_dataset_that_is_being_written_is_refused(tmp_path: Path) -> None:
    model = m.create(tmp_path / "ds")
    m.fill(model, 20)
    model.writer.flush()
    with pytest.raises(InputError, match="only sealed datasets are read"):
        open_url(f"file://{tmp_path / 'ds'}", tmp_path / "cache")
    model.writer.close()


# Words.


def test_credentials_are_not_shown() -> None:
    place = locate("https://user:secret@host:8000/data/ds/")
    assert isinstance(place, URL)
    assert (str(place), place.name) == ("https://host:8000/data/ds", "ds")
    assert place.full == "https://user:secret@host:8000/data/ds"
    assert locate("data/ds") == Path("data/ds")
    with pytest.raises(UsageError, match=r"host/ds: .*no \?") as caught:
        locate("https://host/ds?token=secret")
    assert "secret" not in str(caught.value)


def test_an_unknown_scheme_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'https'"):
        open_url("htps://host/ds", tmp_path)


def test_a_missing_package_is_exit_6(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingExtraError) as caught:
        open_url("memory://ds", tmp_path)
    assert caught.value.hint == "pip install 'rlcli[remote]'"


def test_the_size_of_the_cache_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RL_REMOTE_CACHE_BYTES", "5_000")
    assert caches.default_bytes() == 5000
    monkeypatch.setenv("RL_REMOTE_CACHE_BYTES", "much")
    with pytest.raises(UsageError, match="RL_REMOTE_CACHE_BYTES=much"):
        caches.default_bytes()


@pytest.mark.parametrize("data", [b"", b"{}", b"<html>hello</html>", b"\x00" * 100])
def test_what_is_no_dataset_is_a_clean_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "ds").mkdir()
    (tmp_path / "ds" / "dataset.json").write_bytes(data)
    with pytest.raises(RLError, match=r"file://.*dataset\.json"):
        open_url(f"file://{tmp_path / 'ds'}", tmp_path / "cache")
