"""Damaged sources of every format, converted in processes of their own.

`python convert_mutants.py SOURCE FORMAT COUNT SEED FOLDER` prints one JSON object: how often each exit code
came, the largest memory, and every violation with its seed.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

MEMORY = 1 << 30  # resident, the interpreter with all libraries included
SECONDS = 10.0
CODES = {0, 2, 3, 4, 5, 6, 7}


def mutate(source: Path, chance: random.Random) -> str:
    """Damages one file of a copy; says how."""
    files = sorted(path for path in [source, *source.rglob("*")] if path.is_file())
    path = chance.choice(files)
    data = bytearray(path.read_bytes())
    kind = chance.choice(["bit", "bits", "cut", "zeros", "ones", "huge", "swap", "insert", "remove", "gone"])
    if kind == "gone" and len(files) > 1:
        path.unlink()
        return f"{path.name} is gone"
    at = chance.randrange(len(data)) if data else 0
    if chance.random() < 0.3:
        at = min(at, chance.randrange(256))  # headers are at the beginning
    many = chance.choice([1, 2, 4, 8, 64])
    if kind == "cut" or not data:
        del data[at:]
    elif kind in ("bit", "gone"):
        data[at] ^= 1 << chance.randrange(8)
    elif kind == "bits":
        for _ in range(chance.randrange(1, 64)):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif kind in ("zeros", "ones"):
        data[at : at + many] = bytes([0 if kind == "zeros" else 255]) * len(data[at : at + many])
    elif kind == "huge":
        number = chance.choice([2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**40])
        told = number.to_bytes(8, "little")[: chance.choice([4, 8])]
        text = chance.random() < 0.5 and any(48 <= byte < 58 for byte in data)
        if text:  # a number in JSON or in a header
            at = chance.choice([n for n, byte in enumerate(data) if 48 <= byte < 58])
            told, many = str(number).encode(), 1
        data[at : at + (many if text else len(told))] = told
    elif kind == "swap":
        other = chance.randrange(len(data))
        size = min(many, len(data) - max(at, other))
        data[at : at + size], data[other : other + size] = data[other : other + size], data[at : at + size]
    elif kind == "insert":
        data[at:at] = chance.randbytes(many)
    else:
        del data[at : at + many]
    path.write_bytes(data)
    return f"{path.name}: {kind} at {at}"


def child(source: Path, out: Path, told: list[str]) -> int:
    """The exit code of a conversion; its standard error goes to a file."""
    from rlcli.main import run

    resource.setrlimit(resource.RLIMIT_DATA, (4 * MEMORY, 4 * MEMORY))
    null, errors = (
        os.open(os.devnull, os.O_WRONLY),
        os.open("stderr", os.O_WRONLY | os.O_CREAT),
    )
    os.dup2(null, 1)
    os.dup2(errors, 2)
    return run(["convert", str(source), str(out), "--yes", "--quiet", "--json", "--offline", *told])


def judge(code: int, usage: Any, seconds: float, folder: Path) -> list[str]:
    """What is wrong with how a conversion ended."""
    said = (folder / "stderr").read_text(errors="replace") if (folder / "stderr").exists() else ""
    left = sorted(path.name for path in (folder / "out").iterdir())
    wrong = []
    if code not in CODES:
        wrong.append(f"ended with {code}: {said[-1500:]}")
    elif code and (said.count("\n") != 1 or "Traceback" in said):
        wrong.append(f"not one line: {said[-1500:]!r}")
    if left != ([] if code else ["ds"]):
        wrong.append(f"left {left}")
    if usage.ru_maxrss * 1024 > MEMORY:
        wrong.append(f"{usage.ru_maxrss / 1024:.0f} MiB resident")
    if seconds > SECONDS:
        wrong.append(f"took {seconds:.0f} s")
    return wrong


def one(source: Path, name: str, seed: int, folder: Path) -> tuple[int, int, list[str]]:
    """`(exit code, resident bytes, violations)` of one damaged copy."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "out").mkdir(parents=True)
    copy = folder / source.name
    shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
    chance = random.Random(f"{name} {seed}")
    how = mutate(copy, chance)
    told = ["--from", name] if chance.random() < 0.5 else []
    told += ["--images", "decode"] if chance.random() < 0.5 else []
    started = time.monotonic()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.chdir(folder)
            code = child(copy, Path("out/ds"), told)
        finally:
            os._exit(code)
    while True:
        done, status, usage = os.wait4(process, os.WNOHANG)
        seconds = time.monotonic() - started
        if done:
            break
        if seconds > 2 * SECONDS:
            os.kill(process, signal.SIGKILL)
            _, status, usage = os.wait4(process, 0)
            break
        time.sleep(0.002)
    found = judge(os.waitstatus_to_exitcode(status), usage, seconds, folder)
    wrong = [f"{name} {seed}, {how}, {' '.join(told)}: {sentence}" for sentence in found]
    return os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024, wrong


def main() -> None:
    """See the module."""
    source, name, count, seed, folder = sys.argv[1:]
    import numpy  # noqa: F401 - the processes shall find the libraries imported

    from rlcli.datasets import registry
    from rlcli.pipeline import convert  # noqa: F401

    registry.load(name)
    codes: dict[int, int] = {}
    most, wrong = 0, []
    for number in range(int(seed), int(seed) + int(count)):
        code, resident, found = one(Path(source), name, number, Path(folder))
        codes[code] = codes.get(code, 0) + 1
        most, wrong = max(most, resident), wrong + found
    print(json.dumps({"format": name, "codes": codes, "MiB": most >> 20, "violations": wrong}))


if __name__ == "__main__":
    main()
