"""Our reader, as `tests/conformance.py` asks: a dataset's path in, one JSON object out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "golden"))
import make

from rlcli.errors import CorruptError, IncompatibleError, InputError
from rlcli.format.dataset import Dataset
from rlcli.format.verify import verify


def answer(path: Path) -> dict[str, Any]:
    """Reads everything, decoding every value, and has it verified."""
    try:
        found: dict[str, Any] = make.expectation(path)
        with Dataset.open(path) as dataset:
            dataset.read_rows()
        if problems := verify(path, deep=True):
            raise CorruptError(problems[0].message)
    except CorruptError:
        return {"error": "corrupt"}
    except IncompatibleError:
        return {"error": "incompatible"}
    except InputError:
        return {"error": "input"}
    return found


if __name__ == "__main__":
    print(json.dumps(answer(Path(sys.argv[1]))))
