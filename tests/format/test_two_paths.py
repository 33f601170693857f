"""The native row path, and the one by single calls that tests can make fail, write the same bytes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
import model as m

from rlcli.format import layer
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.journal import HEADER, RECORD, ROWS, SEAL
from rlcli.format.specs import Spec
from rlcli.format.verify import verify
from rlcli.format.writer import Writer


def _write(path: Path, spec: Spec, parts: list[tuple[int, bool]], options: dict[str, Any]) -> None:
    """Some steps and then a commit, for each part; perhaps the writer is killed there and another goes on."""
    model = m.create(path, spec, num_streams=2, **options)
    for steps, is_killed in parts:
        m.fill(model, steps)
        model.writer.flush()
        if is_killed:
            model.writer.writer.abort()
            writer = Writer.append(path, lineage={"op": "again"}, durability="process")
            model.writer = EpisodeWriter(writer, chunk_rows=options["chunk_rows"])
    model.writer.close()


def _without_time(journal: bytes) -> list[bytes]:
    """Its records without the time, the checksums that cover it, and the dataset's uuid."""
    found = []
    for at in range(0, len(journal), RECORD):
        record = bytearray(journal[at : at + RECORD])
        if record[4] == HEADER:
            record[16:32] = bytes(16)
        elif record[4] in (ROWS, SEAL):
            record[40:48] = bytes(8)
        record[56:64] = bytes(8)
        found.append(bytes(record))
    return found


def _content(path: Path) -> dict[str, Any]:
    """Everything that does not depend on the time or the dataset's uuid."""
    found: dict[str, Any] = {}
    for file in sorted(path.rglob("*.*")):
        name = file.relative_to(path).as_posix()
        kind = name.split("/")[0]
        if kind == "journal":
            found[name] = _without_time(file.read_bytes())
        elif kind == "sums":
            sums = json.loads(file.read_bytes())["files"]
            found[name] = {k: v for k, v in sums.items() if not k.startswith("journal/")}
        elif kind == "manifests":
            segments = json.loads(file.read_bytes())["segments"]
            found[name] = [{k: v for k, v in entry.items() if k != "sums"} for entry in segments]
        elif kind != "dataset.json" and file.is_file():
            found[name] = file.read_bytes()
    return found


@settings(max_examples=25, deadline=None)
@given(
    spec=st.sampled_from([m.FLAT, m.NESTED]),
    parts=st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=1, max_size=5),
    segment_rows=st.sampled_from([3, 16, None]),
    chunk_rows=st.sampled_from([1, 7, 64]),
)
def test_both_paths_write_the_same_bytes(
    spec: Spec,
    parts: list[tuple[int, bool]],
    segment_rows: int | None,
    chunk_rows: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    root = tmp_path_factory.mktemp("paths")
    options = {"segment_rows": segment_rows, "chunk_rows": chunk_rows}
    _write(root / "native", spec, parts, options)
    with layer.use(layer.Layer()):
        _write(root / "calls", spec, parts, options)
    native, calls = _content(root / "native"), _content(root / "calls")
    assert native.keys() == calls.keys()
    for name in native:
        assert native[name] == calls[name], name
    assert verify(root / "native", deep=True) == []
