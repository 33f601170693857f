"""Rows on their way to the disk, while others are still written."""

from __future__ import annotations

from pathlib import Path

from rlcli.format import files
from rlcli.pipeline.convert_disk import ToDisk


def test_what_grows_is_brought_to_the_disk_and_small_files_may_vanish_meanwhile(
    tmp_path: Path, monkeypatch
) -> None:
    folder = tmp_path / "segments" / "w00"
    folder.mkdir(parents=True)
    (folder / "x.memmap").write_bytes(b"rows")
    passing = folder / ".meta.json.0123"
    passing.symlink_to("it was renamed")
    synced: list[str] = []
    sync = files.sync_path
    monkeypatch.setattr(files, "sync_path", lambda path: (sync(path), synced.append(path.name)))
    with ToDisk(tmp_path) as disk:
        disk.wrote(1 << 30)
        disk._pool.submit(int).result()  # it does one thing after the other
        assert synced == ["x.memmap"]
        passing.unlink()
    assert synced == ["x.memmap"] * 2
