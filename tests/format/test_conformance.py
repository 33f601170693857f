"""The conformance runner, with both of our readers and with implementations that are wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
import conformance

HERE = Path(__file__).parent


@pytest.mark.parametrize("reader", ["independent_reader.py", "rl_reader.py"])
def test_both_readers_conform(reader: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = conformance.main(["--impl", f"{sys.executable} {HERE / reader}"])
    out = capsys.readouterr().out
    assert code == 0, out
    count = len(list(conformance.cases()))
    assert count >= 40
    assert out.splitlines()[-1] == f"{count} of {count} as expected"


@pytest.mark.parametrize(
    ("program", "complaint"),
    [
        ("print('hello')", "hello"),
        ("raise SystemExit(3)", "exit code 3"),
        ("print('[]')", "[]"),
        ("1 / 0", "ZeroDivisionError"),
        ('print(\'{"error": "corrupt"}\')', "rows: None, expected"),
    ],
)
def test_implementations_that_are_wrong_are_told_so(
    program: str,
    complaint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "reader.py"
    file.write_text(program)
    chosen = [case for case in conformance.cases() if case[0].name in ("v1-stacks", "major-two")]
    monkeypatch.setattr(conformance, "cases", lambda: iter(chosen))
    assert conformance.main(["--impl", f"{sys.executable} {file}"]) == 8
    out = capsys.readouterr().out
    if complaint != "hello":
        assert complaint in out
    assert out.splitlines()[-1] == "0 of 2 as expected"


def test_a_single_wrong_value_is_named() -> None:
    (expected,) = (e for path, e in conformance.cases() if path.name == "v1-stacks")
    found = json.loads(json.dumps(expected))
    assert conformance.differences(expected, found) == []
    found["columns"]["next/stacked"] = "0" * 64
    found["episodes"]["length"][0] += 1
    lines = conformance.differences(expected, found)
    assert [line.split(":")[0] for line in lines] == ["columns.next/stacked", "episodes.length"]
