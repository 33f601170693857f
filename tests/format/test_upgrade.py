"""Versions of the format: one exists; the way between versions works with made-up ones."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import model as m

from rlcli.errors import BusyError, ExitCode, IncompatibleError, UsageError
from rlcli.format import dataset_json, generations, manifest
from rlcli.format.dataset import Dataset
from rlcli.format.upgrade import Step, downgrade, known_versions, upgrade
from rlcli.format.verify import verify
from rlcli.format.writer import Writer


def _add(name: str) -> Any:
    return lambda value: {**value, name: 1}


def _remove(name: str) -> Any:
    def down(value: dict[str, Any]) -> dict[str, Any]:
        if value[name] != 1:
            raise IncompatibleError(f"{name} is in use")
        return {key: item for key, item in value.items() if key != name}

    return down


STEPS = (
    Step((1, 1), (1, 2), _add("second"), _remove("second")),
    Step((1, 0), (1, 1), _add("first"), _remove("first")),
)


def _newest(path: Path) -> manifest.Manifest:
    return generations.load_newest(path, dataset_json.load(path)["uuid"])


def test_version_one_is_the_only_one(tmp_path: Path) -> None:
    m.small(tmp_path / "ds")
    before = m.tree_hashes(tmp_path / "ds")
    assert known_versions() == [(1, 0)]
    for moved in (
        upgrade(tmp_path / "ds"),
        upgrade(tmp_path / "ds", "1.0"),
        downgrade(tmp_path / "ds", "1.0"),
    ):
        assert (moved.before, moved.after) == ((1, 0), (1, 0))
    assert m.tree_hashes(tmp_path / "ds") == before


@pytest.mark.parametrize("version", ["1.1", "2.0", "0.9", "1", "one", "", "1.0.0", "-1.0", "1.²"])
@pytest.mark.parametrize("move", [upgrade, downgrade])
def test_an_unknown_version_is_refused(tmp_path: Path, version: str, move: Any) -> None:
    m.small(tmp_path / "ds", steps=5)
    before = m.tree_hashes(tmp_path / "ds")
    with pytest.raises(IncompatibleError, match=r"is not known; known: 1\.0") as caught:
        move(tmp_path / "ds", version)
    assert caught.value.code == ExitCode.INCOMPATIBLE
    assert m.tree_hashes(tmp_path / "ds") == before


def test_steps_are_taken_in_order_and_back(tmp_path: Path) -> None:
    model = m.small(tmp_path / "ds")
    before = _newest(tmp_path / "ds")
    moved = upgrade(tmp_path / "ds", steps=STEPS)
    assert (moved.before, moved.after, moved.generation) == ((1, 0), (1, 2), before.generation + 1)
    newest = _newest(tmp_path / "ds")
    assert (newest.format, newest.unknown) == ((1, 2), {"first": 1, "second": 1})
    assert newest.lineage[-1] == {"op": "upgrade", "from": "1.0", "to": "1.2"}
    m.check(Dataset.open(tmp_path / "ds"), model)
    downgrade(tmp_path / "ds", "1.1", steps=STEPS)
    assert (_newest(tmp_path / "ds").format, _newest(tmp_path / "ds").unknown) == ((1, 1), {"first": 1})
    downgrade(tmp_path / "ds", "1.0", steps=STEPS)
    after = _newest(tmp_path / "ds")
    assert (after.format, after.unknown, after.segments) == ((1, 0), {}, before.segments)
    m.check(Dataset.open(tmp_path / "ds"), model)
    assert verify(tmp_path / "ds", deep=True) == []


def test_writers_keep_the_version(tmp_path: Path) -> None:
    m.small(tmp_path / "ds", num_streams=1)
    upgrade(tmp_path / "ds", "1.1", steps=STEPS)
    Writer.append(tmp_path / "ds", lineage={}).close()
    assert _newest(tmp_path / "ds").format == (1, 1)


def test_the_wrong_way_is_named(tmp_path: Path) -> None:
    m.small(tmp_path / "ds", steps=5)
    with pytest.raises(UsageError, match=r"has version 1\.0; `upgrade` brings it to 1\.1"):
        downgrade(tmp_path / "ds", "1.1", steps=STEPS)
    upgrade(tmp_path / "ds", steps=STEPS)
    with pytest.raises(UsageError, match=r"has version 1\.2; `downgrade` brings it to 1\.0"):
        upgrade(tmp_path / "ds", "1.0", steps=STEPS)
    with pytest.raises(IncompatibleError, match=r"version 1\.2 is not known"):
        upgrade(tmp_path / "ds")


def test_what_an_older_version_lacks_stays(tmp_path: Path) -> None:
    m.small(tmp_path / "ds", steps=5)
    stubborn = Step((1, 0), (1, 1), lambda value: {**value, "first": 2}, _remove("first"))
    upgrade(tmp_path / "ds", steps=[stubborn])
    with pytest.raises(IncompatibleError, match="in use"):
        downgrade(tmp_path / "ds", "1.0", steps=[stubborn])
    assert _newest(tmp_path / "ds").format == (1, 1)


def test_only_a_dataset_at_rest_is_moved(tmp_path: Path) -> None:
    model = m.create(tmp_path / "ds")
    with pytest.raises(BusyError):
        upgrade(tmp_path / "ds", steps=STEPS)
    model.add(0)
    model.writer.flush()
    model.writer.writer.abort()
    with pytest.raises(UsageError, match="killed"):
        upgrade(tmp_path / "ds", steps=STEPS)
