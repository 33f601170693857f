"""Members of zip archives read past `zipfile`: the same bytes, or refused as it does."""

from __future__ import annotations

import io
import random
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rlcli.datasets.zip_archives import MemberBytes, opened

METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
DAMAGE = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError, OSError)


def archive_of(path, contents, method):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def read_in(member: MemberBytes, step: int) -> bytes:
    found = b""
    while member.left:
        room = bytearray(step)
        count = member.readinto(memoryview(room))
        found += room[:count]
        if not count:
            raise EOFError
    return found


def contents(seed: int) -> dict[str, bytes]:
    rng = np.random.default_rng(seed)
    return {
        "empty": b"",
        "noise": rng.bytes(300_000),
        "letters": bytes(rng.integers(97, 100, 70_001).astype(np.uint8)),
        "zeros": bytes(200_000),
    }


@pytest.mark.parametrize("method", METHODS)
def test_members_are_what_zipfile_reads_also_by_several_threads(tmp_path, method):
    values = contents(0)
    path = archive_of(tmp_path / "x.zip", values, method)
    with opened(path) as archive, ThreadPoolExecutor(4) as pool:
        for step in (100_000, 1 << 20):
            members = [MemberBytes(archive, archive.getinfo(name)) for name in values]
            assert list(pool.map(read_in, members, [step] * 4)) == list(values.values())
        member = MemberBytes(archive, archive.getinfo("letters"))
        assert (member.read(5), member.tell()) == (values["letters"][:5], 5)
        assert member.read(1 << 40) == values["letters"][5:]
        assert (member.read(1), member.tell()) == (b"", 70_001)


def test_an_archive_behind_other_bytes_is_read(tmp_path):
    values, path = contents(1), tmp_path / "x.zip"
    archive_of(path, values, zipfile.ZIP_DEFLATED)
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    with opened(path) as archive:
        assert {
            name: read_in(MemberBytes(archive, archive.getinfo(name)), 1 << 16) for name in values
        } == values


@pytest.mark.parametrize("method", METHODS[:2])
@pytest.mark.parametrize("seed", range(3))
def test_no_flipped_bit_or_cut_changes_a_byte(tmp_path, method, seed):
    rng = random.Random(seed)
    data = bytes(rng.choices(b"acgt", k=2000))
    path = archive_of(tmp_path / "x.zip", {"a": data}, method)
    sound = path.read_bytes()
    for _ in range(150):
        raw = bytearray(sound)
        if rng.random() < 0.8:
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        else:
            at = rng.randrange(len(raw))
            del raw[at : at + rng.randrange(1, 50)]
        try:
            with zipfile.ZipFile(io.BytesIO(raw)) as archive:
                expected = archive.read(archive.infolist()[0])
        except (*DAMAGE, IndexError):
            expected = None
        path.write_bytes(raw)
        try:
            with zipfile.ZipFile(path) as archive:
                found = read_in(MemberBytes(archive, archive.infolist()[0]), 700)
        except (*DAMAGE, IndexError):
            continue
        assert found == data
        if expected is not None:
            assert found == expected
