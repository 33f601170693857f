"""Whether a reader of the dataset format, in whatever language, reads the golden datasets as SPEC.md says.

    python tests/conformance.py --impl "cmd"

runs `cmd DATASET` for every dataset in `tests/golden` and `tests/golden/bad`. The command prints an object:

* for a sound dataset: `schema`, `rows` (committed rows per stream), `digest`, `unknown_next` (logical rows),
  `episodes` (a list per field of SPEC.md section 8, and `stream`; `start` is a logical row; whole episodes
  only) and `columns`: per key (parts joined by `/`) the SHA-256 of the values of all logical rows,
  little-endian in C order, unknown ones zero. Of a heap column, or a shift of one, it is of the stored bytes
  of each value, preceded by their number as 8 bytes, little-endian; an unknown value is 8 bytes of 255.
* otherwise `{"error": class}`: `corrupt`, `incompatible` (not version 1.0) or `input` (no dataset).

Ends with 0 if all is as expected, with 8 if not.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parent / "golden"


def cases() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every golden dataset with the answer that is right."""
    for expected in sorted(GOLDEN.glob("*.expected.json")):
        yield GOLDEN / expected.name.removesuffix(".expected.json"), json.loads(expected.read_text())
    for name, entry in json.loads((GOLDEN / "bad" / "expected.json").read_text()).items():
        yield GOLDEN / "bad" / name, {"error": entry["error"]}


def ask(command: list[str], dataset: Path) -> dict[str, Any]:
    """What an implementation answers."""
    ended = subprocess.run([*command, str(dataset)], capture_output=True, text=True, timeout=300)
    try:
        answer = json.loads(ended.stdout)
    except ValueError:
        lines = ended.stderr.strip().splitlines()
        return {"no answer": lines[-1] if lines else f"exit code {ended.returncode}"}
    return answer if isinstance(answer, dict) else {"no answer": ended.stdout[:80]}


def differences(expected: dict[str, Any], found: dict[str, Any], prefix: str = "") -> list[str]:
    """What is not as expected, as short lines; members that were not asked for are ignored."""
    lines: list[str] = []
    for name, value in expected.items():
        if isinstance(value, dict) and isinstance(found.get(name), dict):
            lines += differences(value, found[name], f"{prefix}{name}.")
        elif found.get(name) != value:
            lines.append(f"{prefix}{name}: {str(found.get(name))[:60]}, expected {str(value)[:60]}")
    if "no answer" in found:
        lines.insert(0, found["no answer"])
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--impl", required=True, help="command that takes a dataset's path")
    command = shlex.split(parser.parse_args(arguments).impl)
    wrong = total = 0
    for dataset, expected in cases():
        lines = differences(expected, ask(command, dataset))
        total += 1
        wrong += bool(lines)
        name = dataset.relative_to(GOLDEN).as_posix()
        print(
            f"{'differs' if lines else 'ok':8}{name}{''.join(f'{chr(10)}        {line}' for line in lines)}"
        )
    print(f"{total - wrong} of {total} as expected")
    return 8 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
