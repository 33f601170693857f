"""Every verb that reads takes a URL, says what it says of the folder, and fails in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")
sys.path.insert(0, str(Path(__file__).parent.parent.parent / "format"))
from serving import Web, serving

from rlcli import main
from rlcli.format import origin
from rlcli.format.dataset import Dataset
from rlcli.pipeline.inputs import split_weight

READING = [
    ("info",),
    ("head", "-n", "3"),
    ("tail", "-n", "3", "--episode", "2"),
    ("stats",),
    ("stats", "--by", "episode"),
    ("lineage",),
    ("card",),
]


@pytest.fixture
def web(sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(origin, "_FIRST_WAIT_SECONDS", 0.0)
    with serving(sealed.parent) as found:
        yield found


@pytest.mark.parametrize("words", READING)
def test_a_verb_says_of_a_url_what_it_says_of_the_folder(
    rl: Callable[..., Any], web: Web, sealed: Path, words: tuple[str, ...]
) -> None:
    verb, *options = words
    there = rl(verb, f"{web.url}/data", *options, "--json")
    here = rl(verb, sealed, *options, "--json")
    assert (there.code, there.err) == (0, "")
    expected = here.json
    for facts in (expected, expected.get("dataset", {})):
        if isinstance(facts, dict):
            facts.pop("disk_bytes", None)
    found = json.loads(there.out.replace(f"{web.url}/data", str(sealed)))
    for facts in (found, found.get("dataset", {})):
        if isinstance(facts, dict):
            assert facts.pop("disk_bytes", None) is None
    assert found == expected


@pytest.mark.parametrize(
    "words",
    [
        ("cat",), ("cat", "--format", "csv", "--where", "step > 2"), ("cat", "--rows", "3:9"),
        ("sample", "-n", "5", "--seed", "1"),
    ],
)  # fmt: skip
def test_rows_of_a_url_are_those_of_the_folder(
    rl: Callable[..., Any], web: Web, sealed: Path, words: tuple[str, ...]
) -> None:
    verb, *options = words
    there, here = rl(verb, f"{web.url}/data", *options), rl(verb, sealed, *options)
    assert (there.code, there.out) == (0, here.out)


def test_queries_and_comparisons_take_urls(rl: Callable[..., Any], web: Web, sealed: Path) -> None:
    pytest.importorskip("duckdb")
    asked = rl("query", f"{web.url}/data", 'select count(*) n, max("info.speed") from steps', "--json")
    assert asked.json["rows"] == [[60, 29.0]]
    assert rl("diff", f"{web.url}/data", sealed).code == 0
    assert rl("diff", "--leakage", sealed, f"{web.url}/data").code == 8


def test_verify_proves_what_is_at_the_url_now(rl: Callable[..., Any], copy: Path, tmp_path: Path) -> None:
    url = f"file://{copy}"
    ended = rl("verify", "--deep", "--semantics", url, "--json")
    assert ended.code == 0
    (entry,) = ended.json["datasets"]
    assert (entry["path"], entry["rows"], entry["ok"]) == (url, 60, True)
    file = "segments/w01-000000000012/action.memmap"
    data = bytearray((copy / file).read_bytes())
    data[9] ^= 1
    (copy / file).write_bytes(data)
    (copy / "sums/w00-000000000000.json").unlink()
    ended = rl("verify", url, "--json")
    assert ended.code == 4
    problems = ended.json["datasets"][0]["problems"]
    assert {p["file"] for p in problems} == {file, "sums/w00-000000000000.json"}
    assert {p["block"] for p in problems if p["file"] == file} == {0}
    assert "rl-verify-" not in ended.out + ended.err


def test_new_datasets_of_a_url_remember_it(
    rl: Callable[..., Any], web: Web, sealed: Path, tmp_path: Path
) -> None:
    url = f"{web.url}/data"
    assert rl("filter", url, "--where", "length >= 7", "-o", tmp_path / "f").code == 0
    assert rl("split", url, "--frac", "0.5", "-o", tmp_path / "s").code == 0
    assert rl("compact", url, "-o", tmp_path / "c").code == 0
    assert rl("map", url, "--exclude", "info", "-o", tmp_path / "m").code == 0
    assert rl("diff", tmp_path / "c", sealed).code == 0
    with Dataset.open(tmp_path / "f") as made:
        (parent,) = made.lineage[-1]["parents"]
        assert parent["path"] == url
    assert rl("lineage", tmp_path / "f").code == 0


def test_a_url_is_exported(rl: Callable[..., Any], web: Web, sealed: Path, tmp_path: Path) -> None:
    outs = [tmp_path / "there.hdf5", tmp_path / "here.hdf5"]
    for place, out in zip((f"{web.url}/data", sealed), outs, strict=True):
        assert main.run(["convert", str(place), str(out), "--to", "d4rl"]) == 0
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_a_url_is_trained_on_with_its_weight(web: Web) -> None:
    url = f"{web.url}/data"
    assert [(str(place), weight) for place, weight in map(split_weight, (url, f"{url}:0.5", web.url))] == [
        (url, 1.0),
        (url, 0.5),
        (web.url, 1.0),
    ]


@pytest.mark.parametrize("verb", ["recover", "gc", "upgrade", "pack"])
def test_what_works_on_folders_says_so(rl: Callable[..., Any], web: Web, tmp_path: Path, verb: str) -> None:
    more = [tmp_path / "out.rlz"] if verb == "pack" else []
    ended = rl(verb, f"{web.url}/data", *more)
    assert ended.code == 2
    assert "a dataset in a folder" in ended.err
    assert web.requests == []


def test_errors_are_one_line_with_the_url(rl: Callable[..., Any], web: Web, monkeypatch: Any) -> None:
    for url, code, words in [
        (f"{web.url}/nothing", 3, "not a dataset"),
        ("htps://host/data", 2, "did you mean 'https'"),
        (f"{web.url}/data?token=1", 2, "no ?"),
    ]:
        ended = rl("info", url)
        assert (ended.code, ended.out, ended.err.count("\n")) == (code, "", 1)
        assert words in ended.err
    web.fault = lambda name, count: "flip" if "action" in name else None
    ended = rl("cat", f"{web.url}/data")
    assert ended.code == 4
    assert "action.memmap: block 0 differs from its hash" in ended.err
    monkeypatch.setitem(sys.modules, "fsspec", None)
    ended = rl("info", f"{web.url}/data")
    assert (ended.code, "pip install 'rlcli[remote]'" in ended.err) == (6, True)
