"""What is done while calls fail: short acts, each on a copy of a dataset that was prepared for it.

An act is over the rows of `known_rows`, so what it leaves is compared with arithmetic. One of the API tells
what it was promised by `told`; one of the command line ends with a documented code and at most one line.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import known_rows
import numpy as np
from known_rows import KnownWriter, require

from rlcli import main
from rlcli.errors import ExitCode
from rlcli.format.dataset import Dataset
from rlcli.format.gc import collect_garbage
from rlcli.format.mutable import SideColumn
from rlcli.format.pack import pack
from rlcli.format.recover import recover
from rlcli.format.verify import verify
from rlcli.format.writer import Writer

STREAMS = 2
ENDED = {ExitCode.OK, ExitCode.INPUT, ExitCode.CORRUPT, ExitCode.RESOURCE}


@dataclass
class Stage:
    """A folder with `ds` (and `more`, `packed.rlz`), and the rows per stream of it that were promised."""

    folder: Path
    told: list[int] = field(default_factory=lambda: [0] * STREAMS)
    before: dict[str, bytes] | None = None  # the files of `ds`, for an act that may not touch them
    adds: bool = False  # rows of another dataset come behind them
    code: int | None = None  # how a command ended
    said: str = ""

    @property
    def path(self) -> Path:
        return self.folder / "ds"

    @property
    def out(self) -> Path:
        return self.folder / "out"


@dataclass(frozen=True)
class Act:
    """`prepare` makes the folder once, `run` works on a copy of it while a call fails.

    With `reads` it may not touch `ds`.
    """

    name: str
    prepare: Callable[[Stage], None]
    run: Callable[[Stage], None]
    reads: bool = False

    def __str__(self) -> str:
        return self.name


def _create(path: Path, *, window: int | None = None, heap: bool = False) -> KnownWriter:
    writer = Writer.create(
        path, known_rows.schema(heap=heap), spec={}, lineage={"op": "test"}, num_streams=STREAMS,
        segment_rows=8, window=window, durability="commit",
    )  # fmt: skip
    return KnownWriter(writer)


@contextmanager
def _working(stage: Stage, known: KnownWriter) -> Iterator[Callable[[int], None]]:
    """Gives what writes commits and notes what was promised; after a failure the last commit is left."""

    def write(commits: int) -> None:
        for _ in range(commits):
            for stream in range(len(known.writer.streams)):
                known.write(stream, 4)
            known.commit()
            for stream in known.writer.streams:
                stage.told[stream.number] = stream.committed

    try:
        yield write
        known.close()
    finally:
        known.writer.abort()


def _sealed(stage: Stage, *, window: int | None = None, heap: bool = False) -> None:
    with _working(stage, _create(stage.path, window=window, heap=heap)) as write:
        write(3)


def _killed(stage: Stage, *, window: int | None = None, heap: bool = False) -> None:
    known = _create(stage.path, window=window, heap=heap)
    with contextlib.suppress(KeyboardInterrupt), _working(stage, known) as write:
        write(3)
        known.write(0, 3)
        raise KeyboardInterrupt


def _create_and_write(stage: Stage) -> None:
    with _working(stage, _create(stage.path, heap=True)) as write:
        write(3)


def _append(stage: Stage) -> None:
    known = KnownWriter(Writer.append(stage.path, lineage={"op": "more"}, durability="commit"))
    with _working(stage, known) as write:
        write(3)


def _share(stage: Stage) -> None:
    writer = Writer.join(stage.path, lineage={"op": "join"}, num_streams=STREAMS, durability="interval")
    with _working(stage, KnownWriter(writer)) as write:
        write(3)


def _rewind(stage: Stage) -> None:
    # To the end of an episode, so that the next row begins one, as if the stream ended there.
    ids = [known_rows.identities(stream, 0, rows - 1) for stream, rows in enumerate(stage.told)]
    keep = [int(np.flatnonzero(known_rows.ends(of)).max(initial=-1)) + 1 for of in ids]
    stage.told = keep
    writer = Writer.append(stage.path, lineage={"op": "more"}, durability="commit", rewind=keep)
    with _working(stage, KnownWriter(writer)) as write:
        write(2)


def _recover(stage: Stage) -> None:
    recover(stage.path)


def _prepare_garbage(stage: Stage) -> None:
    _sealed(stage)
    for folder in ("segments", "finals", "journal"):
        name = "w00-000000009999" + (".log" if folder == "journal" else "")
        place = stage.path / folder / name
        if folder != "journal":
            place.mkdir()
            place = place / "observation.memmap"
        place.write_bytes(bytes(5000))


def _collect(stage: Stage) -> None:
    collect_garbage(stage.path, grace_seconds=-1)


def _read(stage: Stage) -> None:
    for check in ("touch", "none"):
        with Dataset.open(stage.path, check=check) as dataset:
            rows = np.random.default_rng(0).permutation(dataset.num_rows)[:5]
            ids = known_rows.identities(0, 0, 0)
            ids = dataset.row_ids(rows)
            found = dataset.gather(rows, [known_rows.ID])
            require(np.array_equal(found["id"], ids), "wrong", "gathered rows")
            known_rows.check(dataset)
    require(verify(stage.path, deep=True) == [], "wrong", "a sound dataset is said to be damaged")


def _mutable(stage: Stage) -> None:
    with Dataset.open(stage.path) as dataset:
        side = SideColumn.open(dataset, "priority", "float32", 1.0)
        try:
            ids = dataset.row_ids(np.arange(dataset.num_rows))
            side.write(ids[::2], np.full(len(ids[::2]), 2, np.float32))
            side.sync()
            require((side.read(ids)[::2] == 2).all(), "wrong", "side column")
        finally:
            side.close()


def _with_more(stage: Stage) -> None:
    _sealed(stage)
    with _working(Stage(stage.folder), _create(stage.folder / "more")) as write:
        write(2)


def _packed(stage: Stage) -> None:
    _sealed(stage)
    pack(stage.path, stage.folder / "packed.rlz")


def _arrays(stage: Stage) -> None:
    n = 60
    end = np.arange(n) % 20 == 19
    values = {
        "observations": known_rows.observations(np.arange(n)), "actions": np.zeros((n, 1), np.float32),
        "rewards": np.arange(n, dtype=np.float32), "terminals": end, "timeouts": np.zeros(n, bool),
        "next_observations": known_rows.observations(np.arange(n) + 1),
    }  # fmt: skip
    np.savez(stage.folder / "source.npz", **values)


def _command(line: str) -> Callable[[Stage], None]:
    """`rl` with these words, in this process; DS, MORE, OUT and so on are places on the stage."""

    def run(stage: Stage) -> None:
        stage.adds = line.startswith("buffer append")
        places = {
            "DS": stage.path, "MORE": stage.folder / "more", "OUT": stage.out,
            "PACKED": stage.folder / "packed.rlz", "SOURCE": stage.folder / "source.npz",
            "CARD": stage.folder / "out.md", "ARRAYS": stage.folder / "out.npz",
        }  # fmt: skip
        words = [str(places.get(word, word)) for word in line.split()]
        out, err = io.TextIOWrapper(io.BytesIO()), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            stage.code = main.run(words)
        stage.said = err.getvalue()

    return run


def _commands() -> Iterator[Act]:
    for line, prepare in (
        ("buffer info DS", _sealed),
        ("buffer cat DS --format csv", _sealed),
        ("buffer stats DS", _sealed),
        ("buffer verify DS --deep", _sealed),
        ("buffer merge DS MORE -o OUT", _with_more),
        ("buffer merge DS MORE --copy -o OUT", _with_more),
        ("buffer merge DS MORE --dedup -o OUT", _with_more),
        ("buffer compact DS -o OUT", partial(_sealed, heap=True)),
        ("buffer filter DS --where length>3 -o OUT", _sealed),
        ("buffer split DS --frac 0.5 -o OUT", _sealed),
        ("buffer map DS --exclude note -o OUT", partial(_sealed, heap=True)),
        ("buffer sample DS -n 20 -o OUT", _sealed),
        ("buffer pack DS OUT", _sealed),
        ("buffer unpack PACKED -o OUT", _packed),
        ("buffer card DS -o CARD", _sealed),
        ("convert SOURCE OUT --env-id x", _arrays),
        ("convert DS ARRAYS", _sealed),
    ):
        yield Act(line, prepare, _command(line), reads=True)
    yield Act("buffer append DS MORE", _with_more, _command("buffer append DS MORE"))
    yield Act("buffer recover DS", _killed, _command("buffer recover DS"))


def _window(prepare: Callable[..., None]) -> Callable[[Stage], None]:
    return partial(prepare, window=10)


def _heaps(prepare: Callable[..., None]) -> Callable[[Stage], None]:
    return partial(prepare, heap=True)


ACTS = (
    Act("create", lambda stage: None, _create_and_write),
    Act("append", _heaps(_sealed), _append),
    Act("append to a window", _window(_sealed), _append),
    Act("append after a kill", _heaps(_killed), _append),
    Act("share", _sealed, _share),
    Act("share after a kill", _killed, _share),
    Act("share a window", _window(_killed), _share),
    Act("rewind", _sealed, _rewind),
    Act("rewind after a kill", _killed, _rewind),
    Act("recover", _heaps(_killed), _recover),
    Act("recover a window", _window(_killed), _recover),
    Act("collect garbage", _prepare_garbage, _collect),
    Act("read", _heaps(_sealed), _read, reads=True),
    Act("read what a killed writer left", _heaps(_killed), _read, reads=True),
    Act("a mutable column", _sealed, _mutable),
    *_commands(),
)

_HIDDEN = re.compile(r"/\.([^/ ]*\.)?(tmp-|[0-9a-f]{32})|rl-bug-")


def check(stage: Stage, act: Act, *, is_full: bool) -> None:
    """What must hold after an act in which a call has failed; calls work again.

    With `is_full` only the disk was full or descriptors used up, so that what failed has been removed.
    """
    if stage.code is not None:
        require(stage.code in ENDED, "wrong", f"exit code {stage.code}: {stage.said}")
        errors = [line for line in stage.said.splitlines() if line.startswith("error: ")]
        require(len(errors) == (stage.code != 0), "wrong", f"exit code {stage.code}: {stage.said}")
        require(not _HIDDEN.search(stage.said), "wrong", f"a hidden path is named: {stage.said}")
        require("Traceback" not in stage.said, "wrong", stage.said)
        if is_full and stage.code:
            left = [p.name for p in stage.folder.iterdir() if p.name.startswith((".", "out"))]
            require(not left, "wrong", f"{left} is left")
    for out in (stage.out, stage.folder / "out-train", stage.folder / "out-val"):
        if out.is_dir():
            require(verify(out, deep=True) == [], "wrong", f"{out.name} is half made")
    if stage.before is not None:
        require(contents(stage.path) == stage.before, "wrong", "the input is changed")
    elif stage.path.exists():
        _check_dataset(stage)
    else:
        require(stage.told == [0] * STREAMS, "hole", "the dataset is gone")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder; none if it is not there."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _check_dataset(stage: Stage) -> None:
    for again in range(2):
        with Dataset.open(stage.path) as dataset:
            rows = dataset.stream_rows
            kept = all(n >= t for n, t in zip(rows, stage.told, strict=False))
            require(kept and len(rows) >= STREAMS, "hole", (rows, stage.told))
            if stage.adds:  # rows that are further along in their own dataset
                for stream, promised in enumerate(stage.told):
                    known_rows.check_rows(dataset, stream, 0, promised - 1)
            else:
                known_rows.check(dataset)
        if not again and not stage.adds:
            known = KnownWriter(Writer.append(stage.path, lineage={"op": "after"}, durability="process"))
            known.write(0, 3)
            known.close()
            stage.told = [rows[0] + 3, *rows[1:]]
    require(verify(stage.path, deep=True) == [], "wrong", "verify")
