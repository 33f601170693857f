"""Changed datasets: an error or what was written, at once, and nothing else is touched."""

from __future__ import annotations

import hashlib
import json
import random
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from mutations import Target, fuzz

from rlcli.errors import CorruptError
from rlcli.format import strictjson, sums
from rlcli.format.dataset import Dataset


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    return Target(tmp_path_factory.mktemp("fuzz"))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=4, max_size=40))
def test_a_changed_dataset_is_an_error_or_right(target: Target, data: bytes) -> None:
    target.run(data)


def test_most_cases_get_behind_the_hashes_or_are_refused(memory_path: Path) -> None:
    """The fuzzer does what it should: cases of each kind, and some of them are read."""
    rng = random.Random(0)
    target, violations = fuzz(memory_path, lambda: rng.randbytes(24), lambda t: t.counts["cases"] >= 100)
    assert violations == []
    assert target.counts["read"] > 10
    assert target.counts["CorruptError"] > 20
    assert target.counts["unpack: CorruptError"] > 2


def test_a_sums_file_names_no_file_elsewhere(memory_path: Path) -> None:
    target = Target(memory_path)
    path = target.datasets[0]
    secret = path.parent / "secret"
    secret.write_bytes(b"not yours")
    newest = max((path / "manifests").iterdir())
    value = json.loads(newest.read_bytes())
    entry = value["segments"][0]
    file = path / "sums" / f"{entry['name']}.json"
    table = json.loads(file.read_bytes())
    total = sums.of_bytes(secret.read_bytes())
    table["files"]["segments/../../secret"] = {"bytes": total.bytes, "blocks": list(total.blocks)}
    file.write_bytes(strictjson.dump(table))
    entry["sums"] = hashlib.sha256(file.read_bytes()).hexdigest()
    entry["bytes"] += total.bytes
    newest.write_bytes(strictjson.dump_checked(value))
    with Dataset.open(path) as dataset, pytest.raises(CorruptError, match="no file of the segment"):
        dataset.read_rows()
