"""Threads that share a reader: none of them is given what was not compared, or rows that move meanwhile."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from threading import Event, Thread
from typing import Any, Literal

import numpy as np
import pytest
import xxhash

from rlcli.errors import CorruptError
from rlcli.format.composed import Composer
from rlcli.format.dataset import Dataset
from rlcli.format.schema import Column, Heap, Schema, heap_column
from rlcli.format.turns import Moving, Reading
from rlcli.format.writer import Writer

BLOCK_ROWS = 1024  # of 1 KiB


def test_a_block_that_two_threads_compare_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ds"
    schema = Schema((Column(("x",), "uint8", (1024,)),))
    with Writer.create(path, schema, spec={}, lineage={}, segment_rows=2 * BLOCK_ROWS) as writer:
        writer.write(0, {("x",): np.ones((2 * BLOCK_ROWS, 1024), np.uint8)})
    file = path / "segments" / "w00-000000000000" / "x.memmap"
    data = bytearray(file.read_bytes())
    data[-1] = 2  # in the second block
    file.write_bytes(data)
    dataset = Dataset.open(path)
    hexdigest = xxhash.xxh3_64_hexdigest
    inside = False

    def beside(block: Any) -> str:
        """Another thread reads the same block while this one hashes it."""
        nonlocal inside
        if not inside:
            inside = True
            dataset.read(("x",), 0, BLOCK_ROWS)
        return str(hexdigest(block))

    monkeypatch.setattr(xxhash, "xxh3_64_hexdigest", beside)
    dataset.read(("x",), 0, BLOCK_ROWS)
    assert inside
    with pytest.raises(CorruptError, match="block 1"):
        dataset.read(("x",), BLOCK_ROWS, 2 * BLOCK_ROWS)


@pytest.mark.parametrize("check", ["touch", "none"])
def test_rows_stay_what_they_are_while_a_batch_is_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: Literal["touch", "none"]
) -> None:
    schema = Schema((Column(("id",), "int64"), heap_column(("note",), Heap("text", "none", 100))))
    with Writer.create(tmp_path / "ds", schema, spec={}, lineage={}, num_streams=2) as writer:

        def write(stream: int, first: int) -> None:
            ids = np.arange(first, first + 5)
            writer.write(stream, {("id",): ids, ("note",): [f"row {id_}" for id_ in ids.tolist()]})
            writer.commit()

        write(0, 0)
        write(1, 100)
        dataset = Dataset.open(tmp_path / "ds", check=check)
        mover = Thread(target=dataset.refresh)
        values = Composer.values

        def beside(composer: Composer, column: Column, rows: Any) -> Any:
            """Between the ids and the notes of a batch stream 0 grows, and another thread sees it."""
            write(0, 200)
            mover.start()
            mover.join(0.05)  # it would move the rows of stream 1; now it waits for us
            return values(composer, column, rows)

        monkeypatch.setattr(Composer, "values", beside)
        batch = dataset.gather(np.arange(10))
        mover.join()
    assert [f"row {id_}" for id_ in batch["id"]] == list(batch["note"])
    assert dataset.num_rows == 15


def test_who_moves_on_and_who_reads_wait_for_each_other() -> None:
    reading, told = Reading(), Event()

    def move() -> None:
        with Moving(reading):
            told.set()

    def read() -> None:
        with reading:
            told.set()

    with reading:
        mover = Thread(target=move)
        mover.start()
        assert not told.wait(0.02)
    assert told.wait()
    mover.join()
    with Moving(reading):
        told.clear()
        reader = Thread(target=read)
        reader.start()
        assert not told.wait(0.02)
    assert told.wait()
    reader.join()


def test_a_forked_child_waits_for_no_thread_of_its_parent() -> None:
    reading = Reading()
    reader = Thread(target=reading.__enter__)  # it never leaves
    reader.start()
    reader.join()
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        with Moving(reading):
            pass
        with reading:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def test_an_interrupted_reader_does_not_keep_itself_from_moving_on() -> None:
    reading = Reading()
    reading.__enter__()  # and an interrupt took it out
    with Moving(reading):
        pass
    with reading:
        pass
    assert not reading.threads
