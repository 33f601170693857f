"""One file and back: equal bytes, pages, any unzip; and every file that is not exactly ours is refused."""

from __future__ import annotations

import io
import json
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rlcli.errors import BusyError, CorruptError, InputError, UsageError
from rlcli.format import strictjson
from rlcli.format.dataset import Dataset
from rlcli.format.pack import pack, unpack
from rlcli.format.schema import Column, Schema
from rlcli.format.verify import verify
from rlcli.format.writer import Writer
from rlcli.format.zipped import Entry, directory, local_header, payload_offset

COLUMNS = (
    Column(("observation",), "float32", (3,)),
    Column(("next", "observation"), "float32", (3,), "derived", ("observation",)),
    Column(("next", "reward"), "float32", (1,)),
)


def fill(path: Path, *, close: bool = True) -> Writer:
    rng = np.random.default_rng(0)
    writer = Writer.create(
        path, Schema(COLUMNS), spec={}, lineage={"op": "test"}, segment_rows=512, durability="process"
    )
    for _ in range(3):
        values = {c.key: rng.normal(size=(300, *c.shape)).astype(c.numpy) for c in writer.schema.plain}
        writer.write(0, values)
        final = {("observation",): np.ones(3, np.float32)}
        writer.end_episode(0, terminated=True, truncated=False, final=final)
        writer.commit()
    if close:
        writer.close()
    return writer


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pack") / "data"
    fill(path)
    return path


@pytest.fixture(scope="module")
def packed(sealed: Path) -> Path:
    pack(sealed, sealed.parent / "data.rlz")
    return sealed.parent / "data.rlz"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "locks" not in path.relative_to(folder).parts
    }


def write_zip(path: Path, found: list[tuple[str, bytes]]) -> Path:
    """A file of our shape with any names and contents."""
    import zlib

    entries, data = [], bytearray()
    for name, content in found:
        entries.append(Entry(name, len(content), zlib.crc32(content)))
        data += local_header(len(data), entries[-1]) + content
    path.write_bytes(bytes(data) + directory(entries))
    return path


def refused(path: Path, tmp_path: Path) -> str:
    """The error of unpacking `path`, after which nothing lies beside the output's own folder."""
    before = sorted(p for p in tmp_path.rglob("*"))
    with pytest.raises(CorruptError) as caught:
        unpack(path, tmp_path / "sandbox" / "out")
    shutil.rmtree(tmp_path / "sandbox", ignore_errors=True)
    assert sorted(p for p in tmp_path.rglob("*")) == before
    return caught.value.message


def test_a_packed_dataset_comes_back_as_it_was(sealed: Path, packed: Path, tmp_path: Path) -> None:
    unpack(packed, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(sealed)
    assert verify(tmp_path / "out", deep=True) == []
    with Dataset.open(sealed) as a, Dataset.open(tmp_path / "out") as b:
        assert (a.digest, a.uuid) == (b.digest, b.uuid)


def test_equal_datasets_are_equal_files(sealed: Path, packed: Path, tmp_path: Path) -> None:
    shutil.copytree(sealed, tmp_path / "copy")
    pack(tmp_path / "copy", tmp_path / "copy.rlz")
    assert (tmp_path / "copy.rlz").read_bytes() == packed.read_bytes()
    unpack(packed, tmp_path / "out")
    pack(tmp_path / "out", tmp_path / "again.rlz")
    assert (tmp_path / "again.rlz").read_bytes() == packed.read_bytes()


def test_any_unzip_reads_it_and_payloads_begin_on_pages(sealed: Path, packed: Path) -> None:
    data = packed.read_bytes()
    expected = contents(sealed)
    with zipfile.ZipFile(packed) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == sorted(expected)
        for info in archive.infolist():
            assert archive.read(info) == expected[info.filename]
            assert info.compress_type == zipfile.ZIP_STORED
            start = payload_offset(info.header_offset, info.filename)
            assert start % 4096 == 0
            assert data[start : start + info.file_size] == expected[info.filename]


def test_a_dataset_that_is_being_written_is_busy_and_one_whose_writer_died_is_to_be_recovered(
    tmp_path: Path,
) -> None:
    writer = fill(tmp_path / "a", close=False)
    with pytest.raises(BusyError, match="being written"):
        pack(tmp_path / "a", tmp_path / "a.rlz")
    writer.abort()
    with pytest.raises(UsageError) as caught:
        pack(tmp_path / "a", tmp_path / "a.rlz")
    assert "recover" in str(caught.value.hint)
    assert not (tmp_path / "a.rlz").exists()


def test_a_damaged_dataset_is_not_packed(sealed: Path, tmp_path: Path) -> None:
    shutil.copytree(sealed, tmp_path / "a")
    column = next((tmp_path / "a" / "segments").glob("*/observation.memmap"))
    data = bytearray(column.read_bytes())
    data[7] ^= 1
    column.write_bytes(data)
    with pytest.raises(CorruptError, match="block 0"):
        pack(tmp_path / "a", tmp_path / "a.rlz")


def test_every_flipped_byte_of_headers_and_some_of_the_data_are_found(packed: Path, tmp_path: Path) -> None:
    data = packed.read_bytes()
    with zipfile.ZipFile(packed) as archive:
        infos = archive.infolist()
    places = {info.header_offset + k for info in infos[:3] for k in range(0, 60)}
    places |= {payload_offset(i.header_offset, i.filename) for i in infos if i.file_size}
    places |= {info.header_offset + 200 for info in infos[:3]}  # padding
    places |= set(range(len(data) - 98, len(data)))
    for place in sorted(places):
        damaged = bytearray(data)
        damaged[place] ^= 0x40
        (tmp_path / "bad.rlz").write_bytes(damaged)
        refused(tmp_path / "bad.rlz", tmp_path)


@pytest.mark.parametrize("cut", [0, 1, 21, 22, 97, 98, 99, 5000])
def test_a_cut_or_prolonged_file_is_refused(cut: int, packed: Path, tmp_path: Path) -> None:
    data = packed.read_bytes()
    for name, content in (("cut", data[: len(data) - cut - 1]), ("long", data + b"x"), ("head", data[:cut])):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "../evil", "/etc/evil", "segments/w00-000000000000/../../../evil", "evil", "manifests/../evil",
        "segments/w00-000000000000/a/./b.memmap", "segments/w00-000000000000/.hidden", "segments//x",
        "segments/w00-000000000000/", "dataset.json/x", "C:evil", "segments\\w00-000000000000\\x",
        "locks/w00.lock", "segments/w00-000000000000/" + "a" * 80, "dataset.json\0", "DATASET.JSON",
    ],
)  # fmt: skip
def test_names_that_no_dataset_has_are_refused(name: str, sealed: Path, tmp_path: Path) -> None:
    found = [*contents(sealed).items(), (name, b"evil")]
    assert "no dataset has" in refused(write_zip(tmp_path / "bad", found), tmp_path)


def test_names_that_come_twice_or_are_a_folder_too_are_refused(sealed: Path, tmp_path: Path) -> None:
    found = list(contents(sealed).items())
    assert "twice" in refused(write_zip(tmp_path / "bad", [*found, found[0]]), tmp_path)
    more = [("segments/w00-000000000000/a", b"x"), ("segments/w00-000000000000/a/b", b"x")]
    assert "folder" in refused(write_zip(tmp_path / "bad", [*found, *more]), tmp_path)


def test_files_beside_those_of_the_dataset_and_missing_ones_are_refused(sealed: Path, tmp_path: Path) -> None:
    found = contents(sealed)
    for more in ("segments/w00-000000000000/extra.memmap", "journal/w07-000000000000.log"):
        assert "no file of the dataset" in refused(
            write_zip(tmp_path / "bad", [*found.items(), (more, b"x")]), tmp_path
        )
    for name in found:
        rest = [(known, data) for known, data in found.items() if known != name]
        refused(write_zip(tmp_path / "bad", rest), tmp_path)
    refused(write_zip(tmp_path / "bad", []), tmp_path)


def test_contents_with_right_checksums_and_wrong_hashes_are_refused(sealed: Path, tmp_path: Path) -> None:
    for name, data in contents(sealed).items():
        changed = bytes([data[0] ^ 1]) + data[1:]
        found = contents(sealed) | {name: changed}
        refused(write_zip(tmp_path / "bad", list(found.items())), tmp_path)


def test_an_unsealed_dataset_in_a_packed_file_is_refused(sealed: Path, tmp_path: Path) -> None:
    found = contents(sealed)
    newest = max(name for name in found if name.startswith("manifests/"))
    value = json.loads(found[newest])
    value["streams"][0]["owner"] = {"host": "h", "pid": 1, "boot": "0" * 32, "durability": "interval"}
    del value["check"]
    found[newest] = strictjson.dump_checked(value)
    assert "not sealed" in refused(write_zip(tmp_path / "bad", list(found.items())), tmp_path)


def make_zip(sealed: Path, change: Callable[[zipfile.ZipInfo], None], method: int) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as archive:
        for name, content in contents(sealed).items():
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            change(info)
            archive.writestr(info, content)
    return data.getvalue()


def test_other_zip_files_are_refused(sealed: Path, tmp_path: Path) -> None:
    """Compressed ones (bombs), links, encrypted ones: nothing but our own shape is looked at."""

    def link(info: zipfile.ZipInfo) -> None:
        info.external_attr = (stat.S_IFLNK | 0o777) << 16

    for change, method in ((link, zipfile.ZIP_STORED), (lambda info: None, zipfile.ZIP_DEFLATED)):
        (tmp_path / "bad").write_bytes(make_zip(sealed, change, method))
        assert "not a packed dataset" in refused(tmp_path / "bad", tmp_path)


def test_a_directory_that_lies_about_sizes_is_refused(packed: Path, tmp_path: Path) -> None:
    """Overlapping files, files beyond the end, sizes near 2^64: the layout would be another one."""
    data = packed.read_bytes()
    with zipfile.ZipFile(packed) as archive:
        entries = [Entry(i.filename, i.file_size, i.CRC) for i in archive.infolist()]
        start = archive.start_dir
    for size in (0, 1, 1 << 40, (1 << 62) - 1):
        changed = [Entry(entries[0].name, size, entries[0].crc), *entries[1:]]
        (tmp_path / "bad").write_bytes(data[:start] + directory(changed))
        assert ("header" if size < 2 else "end at byte") in refused(tmp_path / "bad", tmp_path)


def test_an_interruption_stops_both(sealed: Path, packed: Path, tmp_path: Path) -> None:
    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(sealed, tmp_path / "out.rlz", advance=stop)
    with pytest.raises(KeyboardInterrupt):
        unpack(packed, tmp_path / "out", advance=stop)


def test_what_is_missing_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        unpack(tmp_path / "none", tmp_path / "out")
    with pytest.raises(InputError):
        unpack(tmp_path, tmp_path / "out")
    with pytest.raises(InputError):
        pack(tmp_path / "none", tmp_path / "out.rlz")
