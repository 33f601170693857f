"""Dopamine's replay logs: rings that continue each other, padding, damage."""

from __future__ import annotations

import gzip
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from rlcli.datasets import safe_pickle
from rlcli.errors import CorruptError, InputError, RLError, UsageError
from rlcli.format.dataset import Dataset
from rlcli.pipeline import convert_parts
from rlcli.pipeline.convert import convert

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


class Ring:
    """Dopamine's circular replay as its source describes it: padding before episodes, whole rings."""

    def __init__(self, folder, capacity, seed=0):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.capacity, self.count, self.number = folder, capacity, 0, 0
        self.rng = np.random.default_rng(seed)
        self.store = {
            "observation": self.rng.integers(0, 256, (capacity, 4, 4), dtype=np.uint8),  # never initialised
            "action": self.rng.integers(-99, 0, capacity).astype(np.int32),
            "reward": np.full(capacity, 7, np.float32),
            "terminal": np.ones(capacity, np.uint8),
        }
        self.begins, self.ends, self.real = True, set(), []

    def add(self, terminal=False, episode_end=False):
        if self.begins:
            for _ in range(3):
                self._put(np.zeros((4, 4), np.uint8), 0, 0.0, 0)
        frame = self.rng.integers(0, 256, (4, 4), dtype=np.uint8)
        row = (frame, int(self.rng.integers(6)), float(self.rng.integers(-1, 2)), int(terminal))
        self.real.append((*row, bool(episode_end)))
        self.begins = terminal or episode_end
        at = self.count % self.capacity
        (self.ends.add if self.begins else self.ends.discard)(at)
        self._put(*row)

    def _put(self, *values):
        for name, value in zip(self.store, values, strict=True):
            self.store[name][self.count % self.capacity] = value
        self.count += 1
        if self.count % self.capacity == self.capacity - 1:  # batch_rl's rule
            self.log(self.count)

    def log(self, count, *, ends=False):
        for name, values in self.store.items():
            save(self.folder / f"$store$_{name}_ckpt.{self.number}.gz", values)
        save(self.folder / f"add_count_ckpt.{self.number}.gz", np.array(count))
        save(self.folder / f"invalid_range_ckpt.{self.number}.gz", np.arange(5))
        if ends:
            path = self.folder / f"episode_end_indices_ckpt.{self.number}.gz"
            path.write_bytes(gzip.compress(pickle.dumps({np.int64(at) for at in self.ends})))
        self.number += 1

    def finish(self):
        """The last log: its count is the cursor."""
        self.log(self.count % self.capacity)


def save(path, values):
    stream = io.BytesIO()
    np.save(stream, values)
    path.write_bytes(gzip.compress(stream.getvalue(), 1))


def play(ring, *lengths, unfinished=0):
    for length in lengths:
        for step in range(length):
            ring.add(terminal=step == length - 1)
    for _ in range(unfinished):
        ring.add()
    return ring


def same_as_played(dataset, real):
    assert dataset.num_rows == len(real)
    assert np.array_equal(dataset.read(("observation",)), np.stack([row[0] for row in real]))
    for key, at in ((("action",), 1), (("next", "reward"), 2), (("next", "terminated"), 3)):
        assert dataset.read(key).reshape(-1).tolist() == [row[at] for row in real], key


def test_the_published_sample_gives_its_numbers(tmp_path):
    path = SHARED / "atari" / "partial"
    if not path.exists():
        pytest.skip("no sample files here")
    report = convert(path, tmp_path / "ds", check=True)
    assert report["format"] == "atari"
    assert report["padding_rows"] == report["dropped"] == 60
    with Dataset.open(tmp_path / "ds") as dataset:
        lengths = [54, 33, 27, 40, 45, 27, 34, 29, 20, 37, 22, 49, 27, 48, 28, 32, 50, 36, 35, 27]
        assert dataset.episodes.length.tolist() == lengths
        assert dataset.episodes.terminated.sum() == 19
        assert dataset.episodes.cut.tolist() == [False] * 19 + [True]
        assert dataset.read(("action",)).sum() == 6119
        assert dataset.read(("action",)).dtype == np.int32
        assert dataset.read(("next", "reward")).sum() == 11
        assert dataset.read(("observation",)).sum(dtype=np.int64) == 629670768


def test_logs_continue_each_other(tmp_path):
    """Three logs and the last one: the ring's oldest row comes before its first, episodes cross logs."""
    ring = play(Ring(tmp_path / "Pong" / "1" / "replay_logs", 40), 9, 30, 2, 33, 17, 40, unfinished=6)
    ring.finish()
    assert ring.number == 4
    report = convert(tmp_path / "Pong" / "1", tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        same_as_played(dataset, ring.real)
        assert dataset.episodes.length.tolist() == [9, 30, 2, 33, 17, 40, 6]
        assert dataset.unknown_next.tolist() == (np.cumsum([9, 30, 2, 33, 17, 40, 6]) - 1).tolist()
        assert dataset.extra["source"]["invalid_range"] == [list(range(5))] * 4
    assert report["padding_rows"] == 21
    assert report["episodes_without_padding"] == 0


@pytest.mark.parametrize("seed", range(6))
def test_any_history_comes_back_in_order(tmp_path, seed, monkeypatch):
    rng = np.random.default_rng(seed)
    ring = Ring(tmp_path / "logs", int(rng.integers(12, 60)), seed)
    play(ring, *rng.integers(1, 40, 8).tolist(), unfinished=int(rng.integers(0, 9)))
    ring.finish()
    monkeypatch.setattr("rlcli.datasets.slicing.SLICE_BYTES", 16 * 7)
    monkeypatch.setattr(convert_parts, "_GROUP_BYTES", 1)
    convert(tmp_path / "logs", tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        same_as_played(dataset, ring.real)


def test_a_checkpoint_that_wrapped_is_read_from_its_oldest_row(tmp_path):
    small = Ring(tmp_path / "logs", 50)
    small._put = lambda *values: put(small, values)
    play(small, 20, 20, 20, unfinished=4)
    small.log(small.count)
    convert(tmp_path / "logs", tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        padding_inside = 3 * 2  # of the third and the last episode
        same_as_played(dataset, small.real[-(50 - padding_inside) :])
        assert dataset.episodes.length.tolist() == [20, 20, 4]


def put(ring, values):
    for name, value in zip(ring.store, values, strict=True):
        ring.store[name][ring.count % ring.capacity] = value
    ring.count += 1


def test_newer_logs_know_truncations(tmp_path):
    ring = Ring(tmp_path / "logs", 100)
    for step in range(30):
        ring.add(terminal=step == 9, episode_end=step == 19)
    ring.log(ring.count, ends=True)
    convert(tmp_path / "logs", tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.episodes.length.tolist() == [10, 10, 10]
        assert dataset.episodes.terminated.tolist() == [True, False, False]
        assert dataset.episodes.truncated.tolist() == [False, True, True]
        assert dataset.episodes.cut.tolist() == [False, False, True]


def test_real_frames_of_zeros_after_the_padding_are_kept(tmp_path):
    ring = Ring(tmp_path / "logs", 100)
    ring.add()
    ring.store["observation"][3], ring.store["action"][3], ring.store["reward"][3] = 0, 0, 0
    play(ring, 5)
    ring.log(ring.count)
    convert(tmp_path / "logs", tmp_path / "ds")
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.num_rows == 6


def test_logs_without_padding_say_so(tmp_path):
    ring = play(Ring(tmp_path / "logs", 100), 8)
    for name, values in ring.store.items():
        ring.store[name] = np.concatenate([values[3:], values[:3]])
    ring.log(8)
    report = convert(tmp_path / "logs", tmp_path / "ds")
    assert report["rows"] == 8
    assert report["episodes_without_padding"] == 1


def test_a_missing_log_cuts_the_episode(tmp_path):
    ring = play(Ring(tmp_path / "logs", 40), 30, 30, 30, 30)
    ring.finish()
    for path in (tmp_path / "logs").glob("*.1.gz"):
        path.unlink()
    convert(tmp_path / "logs", tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.episodes.cut.tolist().count(True) >= 1
        assert dataset.num_rows < len(ring.real)


def test_frames_are_stacked_by_declaration_only(tmp_path):
    ring = play(Ring(tmp_path / "logs", 100), 6, 3)
    ring.log(ring.count)
    convert(tmp_path / "logs", tmp_path / "plain")
    convert(tmp_path / "logs", tmp_path / "ds", check=True, sets=["frame_stack=4"])
    with Dataset.open(tmp_path / "ds") as dataset, Dataset.open(tmp_path / "plain") as plain:
        assert dataset.schema.row_bytes == plain.schema.row_bytes
        frames, stacks = dataset.read(("observation",)), dataset.read(("observation_stack",))
        assert stacks.shape == (9, 4, 4, 4)
        assert np.array_equal(stacks[5], frames[2:6])
        assert np.array_equal(stacks[7], frames[[6, 6, 6, 7]])  # clamped at its episode's first row
    with pytest.raises(UsageError, match="expected 2 to"):
        convert(tmp_path / "logs", tmp_path / "no", sets=["frame_stack=1"])


def test_jobs_give_the_same_rows(tmp_path, monkeypatch):
    ring = play(Ring(tmp_path / "logs", 40), 9, 30, 2, 33, 17, unfinished=6)
    ring.finish()
    monkeypatch.setattr(convert_parts, "_GROUP_BYTES", 1)
    convert(tmp_path / "logs", tmp_path / "ds", jobs=2)
    with Dataset.open(tmp_path / "ds") as dataset:
        same_as_played(dataset, ring.real)


def test_wrong_logs_are_one_line(tmp_path):
    ring = play(Ring(tmp_path / "logs", 40), 9)
    ring.log(ring.count)
    observation = tmp_path / "logs" / "$store$_observation_ckpt.0.gz"
    sound = observation.read_bytes()
    observation.write_bytes(sound[:-9])
    with pytest.raises(CorruptError, match="cut short"):
        convert(tmp_path / "logs", tmp_path / "ds")
    observation.write_bytes(sound[:-6] + bytes(6))
    with pytest.raises(CorruptError, match="damaged gzip"):
        convert(tmp_path / "logs", tmp_path / "ds")
    save(observation, ring.store["observation"][:30])
    with pytest.raises(InputError, match="one number for each of 30 frames"):
        convert(tmp_path / "logs", tmp_path / "ds")
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "|u1", "fortran_order": False, "shape": (40, 1 << 20, 1 << 20)}
    )
    observation.write_bytes(gzip.compress(stream.getvalue()))
    with pytest.raises(CorruptError, match="more than its bytes can become"):
        convert(tmp_path / "logs", tmp_path / "ds")
    observation.write_bytes(gzip.compress(b"no array at all"))
    with pytest.raises(CorruptError, match="no NumPy array"):
        convert(tmp_path / "logs", tmp_path / "ds")
    observation.write_bytes(sound)
    (tmp_path / "logs" / "$store$_reward_ckpt.0.gz").unlink()
    assert not (tmp_path / "ds").exists()
    with pytest.raises(InputError, match="log 0 has no reward"):
        convert(tmp_path / "logs", tmp_path / "ds")


def test_damage_is_one_line_and_leaves_nothing(tmp_path):
    ring = play(Ring(tmp_path / "logs", 40), 9, 9)
    ring.log(ring.count, ends=True)
    files = sorted((tmp_path / "logs").iterdir())
    rng = np.random.default_rng(2)
    for number in range(60):
        path = files[number % len(files)]
        sound = path.read_bytes()
        data = bytearray(sound)
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data if number % 2 else data[: int(rng.integers(len(data)))])
        out = tmp_path / f"out{number}"
        try:
            convert(tmp_path / "logs", out, from_="atari")
        except RLError:
            assert not out.exists()
        path.write_bytes(sound)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_header_that_does_not_end_is_damage(tmp_path):
    play(Ring(tmp_path / "logs", 40), 9).finish()
    path = tmp_path / "logs" / "$store$_reward_ckpt.0.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b"}", b" ", 1)))
    with pytest.raises(CorruptError, match="reward"):
        convert(tmp_path / "logs", tmp_path / "ds", from_="atari")
    assert not (tmp_path / "ds").exists()


class Evil:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_episode_ends_that_are_code_are_ignored_and_said(tmp_path, capsys):
    ring = play(Ring(tmp_path / "logs", 40), 9)
    ring.log(ring.count, ends=True)
    path = tmp_path / "logs" / "episode_end_indices_ckpt.0.gz"
    path.write_bytes(gzip.compress(pickle.dumps({1, Evil()})))
    report = convert(tmp_path / "logs", tmp_path / "ds")
    assert "builtins.print" in " ".join(report["remarks"])
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize("protocol", range(6))
def test_the_unpickler_gives_what_pickle_gives(protocol):
    rng = np.random.default_rng(0)
    values = {
        "a": rng.standard_normal((3, 4)),
        "f": np.asfortranarray(rng.integers(0, 9, (2, 3), dtype=np.int16)),
        "b": np.array([True, False]),
        "big": np.arange(5, dtype=">i4"),
        "empty": np.zeros((0, 3), "f4"),
        "text": np.array(["x", "yz"]),
    }
    plain = {"set": {1, 2}, "n": np.float64(2.5), "i": np.int64(3), "list": [1, (2, None)], "s": "ü"}
    found = safe_pickle.loads(pickle.dumps({**values, **plain}, protocol))
    for name, value in values.items():
        array = safe_pickle.array_of(found[name])
        assert array.dtype == value.dtype
        assert np.array_equal(array, value)
    assert {name: found[name] for name in plain} == plain


def test_pickles_that_lie_take_no_memory():
    huge = b"\x80\x04" + b"N" + b"r" + (2**31 - 1).to_bytes(4, "little") + b"."
    with pytest.raises(ValueError, match="memo index"):
        safe_pickle.loads(huge)
    lying = pickle.dumps(np.zeros(3)).replace(b"K\x03\x85", b"J\xff\xff\xff\x7f\x85")
    with pytest.raises(ValueError, match="24 bytes"):
        safe_pickle.loads(lying)
    for value in (Evil(), np.zeros(2, [("a", "f4")]), Path("x"), print, pickle.loads):
        with pytest.raises(safe_pickle.Refused):
            safe_pickle.loads(pickle.dumps(value))
    for data in (b"", b"\x80", b"garbage", pickle.dumps([1, 2])[:-3], b"\x80\x04K\x01R."):
        with pytest.raises(ValueError, match="pickle"):
            safe_pickle.loads(data)


def test_a_pipe_in_place_of_episode_ends_is_not_waited_for(tmp_path):
    ring = Ring(tmp_path / "Pong" / "1" / "replay_logs", 40)
    play(ring, 7, 9, unfinished=2)
    ring.log(ring.count)
    os.mkfifo(ring.folder / "episode_end_indices_ckpt.0.gz")
    with pytest.raises(InputError, match="not a regular file"):
        convert(tmp_path / "Pong" / "1", tmp_path / "ds", from_="atari")


def quiet(folder, capacity):
    """A ring that writes no logs by itself."""
    ring = Ring(folder, capacity)
    ring.log_when_full = ring.log
    ring.log = lambda *_, **__: None
    return ring


def checkpoint(ring):
    ring.log_when_full(ring.count)


def test_checkpoints_of_one_ring_that_overlap_give_each_row_once(tmp_path):
    ring = quiet(tmp_path / "1" / "replay_logs", 100)
    play(ring, 7, 9, 11)
    checkpoint(ring)
    play(ring, 5, 6)
    checkpoint(ring)
    convert(tmp_path / "1", tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.episodes.length.tolist() == [7, 9, 11, 5, 6]
        same_as_played(dataset, ring.real)


def test_rows_that_were_overwritten_between_checkpoints_are_said(tmp_path):
    ring = quiet(tmp_path / "1" / "replay_logs", 20)
    play(ring, 7)
    checkpoint(ring)
    play(ring, 7, 7, 7)
    checkpoint(ring)  # 40 rows; the ring begins with the padding of the third episode
    report = convert(tmp_path / "1", tmp_path / "ds", check=True)
    assert report["remarks"] == ["10 rows between logs are in none of them; episodes are cut there"]
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.episodes.length.tolist() == [7, 7, 7]
        same_as_played(dataset, [*ring.real[:7], *ring.real[14:]])


def test_what_an_agent_stored_beside_is_kept_or_said(tmp_path):
    """Dopamine's `extra_storage_types`: a number or a few per row are columns, larger ones are left out."""
    ring = play(Ring(tmp_path / "logs", 50), 5, 6)
    ring.log(ring.count)
    discount = np.arange(50, dtype=np.float32)
    save(tmp_path / "logs" / "$store$_gamma__ckpt.0.gz", discount)
    save(tmp_path / "logs" / "$store$_logits_ckpt.0.gz", np.stack([discount] * 3, axis=1))
    save(tmp_path / "logs" / "$store$_map_ckpt.0.gz", np.zeros((50, 9, 9)))
    report = convert(tmp_path / "logs", tmp_path / "ds", check=True)
    assert report["lossy"] == ["map: its rows are float64[9, 9]; left out"]
    with Dataset.open(tmp_path / "ds") as dataset:
        same_as_played(dataset, ring.real)
        positions = [*range(3, 8), *range(11, 17)]  # of the ring, three rows of zeros before each episode
        assert dataset.read(("info", "gamma_")).tolist() == positions
        assert dataset.read(("info", "logits")).tolist() == [[at] * 3 for at in positions]
