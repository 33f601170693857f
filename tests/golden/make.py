"""Makes the golden datasets of the current format version. Run it only for a new version, into new names:

    python tests/golden/make.py tests/golden

Existing ones are never made again: they stand for what earlier releases wrote.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.keys import DTYPES
from rlcli.format.schema import Column, Schema, ted_schema
from rlcli.format.specs import Box, Composite, Discrete
from rlcli.format.writer import Writer

LINEAGE = {"op": "golden"}


def dtypes(path: Path) -> None:
    """Every dtype, shapes of several axes, nested keys; no derived column, two segments."""
    columns = [Column((name,), name, (n % 3 + 1,)) for n, name in enumerate(DTYPES)]
    columns.append(Column(("a", "b", "c.d"), "int16", (2, 1, 3)))
    rng = np.random.default_rng(1)
    with Writer.create(path, Schema(tuple(columns)), spec={}, lineage=LINEAGE, segment_rows=6) as writer:
        for rows in (1, 4, 5):
            values = {c.key: rng.integers(0, 2, (rows, *c.shape)).astype(c.numpy) for c in columns}
            writer.write(0, values)
            writer.commit(tag=rows)
        writer.end_episode(0, terminated=True, truncated=False, seed=2**63 + 1)


def derived(path: Path, *, finish: str = "close") -> None:
    """Two streams, nested observations, episodes over segment ends, finals known and unknown."""
    spec = Composite({"image": Box((2, 2), "uint8"), "speed": Box((), "float64")})
    rng = np.random.default_rng(2)
    schema = ted_schema(spec, Discrete(3), extra=[Column(("log_prob",), "float32")])
    writer = EpisodeWriter(
        Writer.create(
            path,
            schema,
            spec={"env": None, "observation": spec.to_json(), "action": Discrete(3).to_json()},
            lineage=LINEAGE,
            num_streams=2,
            segment_rows=16,
            extra={"note": "golden"},
        ),
        chunk_rows=5,
    )

    def value() -> dict[str, Any]:
        return {"image": rng.integers(0, 255, (2, 2)).astype(np.uint8), "speed": rng.normal()}

    writer.begin(0, 7)
    for t in range(21):
        for stream in range(2):
            end = t % (6 + stream) == 5
            observation, following = value(), None if t == 12 else value()
            writer.add(
                stream,
                observation=observation,
                action=t % 3,
                reward=float(np.float32(0.1 * t)),
                terminated=end and stream == 0,
                truncated=end and stream == 1,
                next_observation=following if end else None,
                log_prob=-0.5 * t,
            )
    if finish == "close":
        writer.close({0: value()})
    else:
        writer.flush()
        writer.writer.abort()


def killed(path: Path) -> None:
    """The same, left open by a writer that died."""
    derived(path, finish="kill")


def recovered(path: Path) -> None:
    """The same, taken over twice and rewound: early sealed segments, a cut episode, a suffixed segment."""
    derived(path, finish="kill")
    Writer.append(path, lineage={"op": "golden again"}).close()
    Writer.append(path, lineage={"op": "golden rewind"}, rewind=[19, 10]).close()


GOLDEN = {"v1-dtypes": dtypes, "v1-derived": derived, "v1-killed": killed, "v1-recovered": recovered}


def expectation(path: Path) -> dict[str, Any]:
    """What every reader must find: SPEC.md in one object."""
    with Dataset.open(path) as dataset:
        columns = {}
        for column in dataset.schema.columns:
            array = dataset.read(column.key)
            columns["/".join(column.key)] = {
                "dtype": column.dtype,
                "shape": list(array.shape),
                "xxh3_128": xxhash.xxh3_128_hexdigest(array.tobytes()),
            }
        episodes = {name: values.tolist() for name, values in vars(dataset.episodes).items()}
        return {
            "rows": dataset.stream_rows,
            "state": dataset.state,
            "digest": dataset.digest,
            "unknown_next": dataset.unknown_next.tolist(),
            "episodes": episodes,
            "columns": columns,
        }


def main(folder: Path) -> None:
    for name, make in GOLDEN.items():
        if not (folder / name).exists():
            make(folder / name)
            text = json.dumps(expectation(folder / name), indent=1)
            (folder / f"{name}.expected.json").write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
