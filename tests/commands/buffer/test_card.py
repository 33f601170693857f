"""`rl buffer card`: what it says is true of the dataset, and the page needs nothing but itself."""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import ted_schema
from rlcli.format.specs import Box, Composite, Discrete
from rlcli.format.writer import Writer
from rlcli.main import run
from rlcli.pipeline.card import as_picture, histogram
from rlcli.pipeline.card_page import data_url

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Six episodes of lengths 1 to 6; red and blue images, a dead dimension, action 2 never taken."""
    spec = Composite(
        {
            "image": Box((8, 4, 3), dtype="uint8", low=0, high=255),
            "state": Box((3,), low=-np.inf, high=np.inf),
        }
    )
    action = Discrete(3)
    path = tmp_path / "seen"
    specs = {
        "env": {"library": "test", "id": HOSTILE, "kwargs": {}},
        "observation": spec.to_json(),
        "action": action.to_json(),
    }
    lineage = {"op": "test", "command": f"make {HOSTILE}", "time": "2026-01-01T00:00:00Z"}
    writer = Writer.create(path, ted_schema(spec, action), spec=specs, lineage=lineage)
    with EpisodeWriter(writer) as episodes:
        for length in range(1, 7):
            for step in range(length):
                image = np.zeros((8, 4, 3), np.uint8)
                image[..., 0 if step == 0 else 2] = 200
                observation = {"image": image, "state": np.array([step, 5.0, -length], np.float32)}
                episodes.add(
                    0, observation=observation, action=step % 2, reward=1.5,
                    terminated=step == length - 1, truncated=False,
                    next_observation=observation if step == length - 1 else None,
                )  # fmt: skip
    return path


class Page(HTMLParser):
    """Tags, addresses and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_no_script_and_no_network(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "card.html"
    assert run(["buffer", "card", str(dataset), "-o", str(out)]) == 0
    page = Page(out.read_text())
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert page.addresses
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert "url(" not in out.read_text()
    assert HOSTILE in page.text  # as text, not as a tag


def test_the_facts_are_those_of_the_dataset(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["buffer", "card", str(dataset), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["histograms"]["length"] == {"edges": [1 + 5 * i / 6 for i in range(7)], "counts": [1] * 6}
    assert sum(facts["histograms"]["return"]["counts"]) == 6
    assert {(d["column"], tuple(d["elements"])) for d in facts["dead"] if "state" in d["column"]} == {
        ("observation/state", (1,))
    }


def test_markdown_names_what_one_should_know(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["buffer", "card", str(dataset)]) == 0
    text = capsys.readouterr().out
    assert "| steps | 21 |" in text
    assert "| episodes | 6 (6 terminated) |" in text
    assert "observation/state: 1 of 3 dimensions never change (1)" in text
    assert "action: 1 of the actions never occur" in text


def test_pictures_are_the_stored_ones() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    png = base64.b64decode(data_url(picture).partition(",")[2])
    width, height, depth, kind = struct.unpack(">IIBB", png[16:26])
    assert (width, height, depth, kind) == (7, 5, 8, 2)
    size, name = struct.unpack(">I4s", png[33:41])
    assert name == b"IDAT"
    lines = np.frombuffer(zlib.decompress(png[41 : 41 + size]), np.uint8).reshape(5, 22)
    assert not lines[:, 0].any()
    assert np.array_equal(lines[:, 1:].reshape(5, 7, 3), picture)


@pytest.mark.parametrize(
    ("shape", "seen"),
    [
        ((6, 5), (6, 5)),
        ((6, 5, 1), (6, 5)),
        ((6, 5, 4), (6, 5, 3)),
        ((3, 6, 5), (6, 5, 3)),
        ((4, 6, 5), (6, 5)),
    ],
)
def test_images_of_every_layout_are_shown(shape: tuple[int, ...], seen: tuple[int, ...]) -> None:
    picture = as_picture(np.zeros(shape, np.uint8))
    assert picture is not None
    assert picture.shape == seen


def test_a_constant_needs_no_histogram() -> None:
    assert histogram(np.array([2.0, 2.0, np.inf])) is None
    assert histogram(np.array([], np.int64)) is None


def test_misuse_is_one_line(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["buffer", "card", str(tmp_path / "none")]) == 3
    assert run(["buffer", "card", str(dataset), "-o", str(tmp_path / "card.pdf")]) == 2
    (tmp_path / "card.md").touch()
    assert run(["buffer", "card", str(dataset), "-o", str(tmp_path / "card.md")]) == 2
    assert not re.search("Traceback", capsys.readouterr().err)
    assert (tmp_path / "card.md").read_text() == ""


def test_arrays_of_any_length_and_the_disk_are_told_as_info_does(capsys: pytest.CaptureFixture[str]) -> None:
    heaps = str(Path(__file__).parents[2] / "golden" / "v1-heaps")
    texts = []
    for verb in ("card", "info"):
        assert run(["buffer", verb, heaps]) == 0
        texts.append(capsys.readouterr().out)
    assert "| a/none | int16 (heap) | any×2 |" in texts[0]
    (size,) = re.findall(r"\| size \| (.*?) \|", texts[0])
    assert f"size          {size}" in texts[1]
