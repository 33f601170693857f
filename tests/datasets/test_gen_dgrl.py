"""Archives and buffers made of pickles: Gen-DGRL and Stable-Baselines3. Nothing in them is run."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import tarfile
import types

import numpy as np
import pytest

from rlcli.datasets import safe_pickle
from rlcli.errors import CorruptError, IncompatibleError, InputError, RLError, UsageError
from rlcli.format.dataset import Dataset
from rlcli.pipeline.convert import convert


def episode(length, seed, *, done=True):
    rng = np.random.default_rng(seed)
    return {
        "observations": rng.integers(0, 256, (length + 1, 3, 8, 8), dtype=np.uint8),
        "actions": rng.integers(0, 15, length),
        "rewards": rng.standard_normal(length).astype("f4"),
        "dones": np.arange(length) == (length - 1 if done else length),
    }


def archive(path, episodes, mode="w", *, names=None):
    with tarfile.open(path, mode) as out:
        for number, values in enumerate(episodes):
            stream = io.BytesIO()
            np.save(stream, values, allow_pickle=True)
            info = tarfile.TarInfo(names[number] if names else f"bigfish/{number}.npy")
            info.size = len(stream.getvalue())
            out.addfile(info, io.BytesIO(stream.getvalue()))
    return path


class Evil:
    def __reduce__(self):
        return (os.system, ("echo must not run >&2",))


@pytest.mark.parametrize(("suffix", "mode"), [("tar", "w"), ("tar.xz", "w:xz"), ("tar.gz", "w:gz")])
def test_episodes_of_an_archive(tmp_path, suffix, mode):
    episodes = [episode(5, 0), episode(3, 1, done=False), episode(4, 2)]
    report = convert(archive(tmp_path / f"x.{suffix}", episodes, mode), tmp_path / "ds", check=True)
    assert (report["format"], report["rows"], report["unknown_next"]) == ("gen-dgrl", 12, 0)
    with Dataset.open(tmp_path / "ds") as dataset:
        for key, name, rows in (
            (("observation",), "observations", slice(0, -1)),
            (("next", "observation"), "observations", slice(1, None)),
            (("action",), "actions", slice(None)),
            (("next", "reward"), "rewards", slice(None)),
        ):
            expected = np.concatenate([values[name][rows] for values in episodes])
            found = dataset.read(key).reshape(expected.shape)
            assert found.dtype == expected.dtype
            assert np.array_equal(found, expected)
        assert dataset.episodes.terminated.tolist() == [True, False, True]
        assert dataset.episodes.truncated.tolist() == [False, True, False]
        index, table = dataset.text(("info", "episode", "file"), np.array([0, 5]))
        assert [table[at] for at in index] == ["bigfish/0.npy", "bigfish/1.npy"]
    convert(tmp_path / f"x.{suffix}", tmp_path / "one", episodes="1:2")
    with Dataset.open(tmp_path / "one") as dataset:
        assert dataset.episodes.length.tolist() == [3]


def test_a_folder_of_episodes_is_read_as_their_archive(tmp_path):
    """As the authors' own script leaves it, which unpacks every archive."""
    episodes = [episode(5, 0), episode(3, 1, done=False), episode(4, 2)]
    for number, values in enumerate(episodes):
        values["actions"] = values["actions"][:, None]  # as their collector stores a discrete one
        (tmp_path / "set" / "bigfish").mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "set" / "bigfish" / f"{number}.npy", values, allow_pickle=True)
    report = convert(tmp_path / "set", tmp_path / "ds", check=True, jobs=2)
    assert (report["format"], report["rows"]) == ("gen-dgrl", 12)
    convert(archive(tmp_path / "x.tar", episodes), tmp_path / "other")
    with Dataset.open(tmp_path / "ds") as ours, Dataset.open(tmp_path / "other") as other:
        assert ours.schema == other.schema
        assert ours.spec["action"]["type"] == "discrete"
        assert (
            ours.read(("action",)).tolist() == np.concatenate([v["actions"][:, 0] for v in episodes]).tolist()
        )
        for key in (("observation",), ("next", "observation"), ("action",)):
            assert np.array_equal(ours.read(key), other.read(key))
    (tmp_path / "set" / "bigfish" / "1.npy").write_bytes(b"no array")
    with pytest.raises(CorruptError, match=r"1\.npy"):
        convert(tmp_path / "set", tmp_path / "again")
    (tmp_path / "none").mkdir()
    np.save(tmp_path / "none" / "x.npy", np.zeros(3))
    with pytest.raises(InputError):
        convert(tmp_path / "none", tmp_path / "again")


def test_float64_rewards_and_lists_are_kept(tmp_path):
    values = episode(4, 0)
    values["rewards"] = np.array([0.1, 0.2, 0.3, 0.4])
    values["dones"] = [False, False, False, True]
    values["value"] = np.arange(4.0)
    values["seed"] = np.int64(3)
    report = convert(archive(tmp_path / "x.tar", [values]), tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.read(("source", "rewards")).tolist() == [0.1, 0.2, 0.3, 0.4]
        assert dataset.read(("info", "value")).tolist() == [0, 1, 2, 3]
    assert report["rows"] == 4


def test_code_in_a_pickle_is_refused(tmp_path, capfd):
    path = archive(tmp_path / "x.tar", [episode(3, 0), {**episode(3, 1), "more": Evil()}])
    with pytest.raises(CorruptError, match=r"bigfish/1\.npy: its pickle holds \w+\.system"):
        convert(path, tmp_path / "ds")
    assert not (tmp_path / "ds").exists()
    assert "must not run" not in capfd.readouterr().err


def test_names_that_leave_the_archive_and_links_are_refused(tmp_path):
    for name in ("../../etc/x.npy", "/tmp/x.npy", "a/../../x.npy"):
        path = archive(tmp_path / "x.tar", [episode(3, 0)], names=[name])
        with pytest.raises(CorruptError, match="a name that leaves the archive"):
            convert(path, tmp_path / "ds", from_="gen-dgrl")
    with tarfile.open(tmp_path / "link.tar", "w") as out:
        info = tarfile.TarInfo("x.npy")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        out.addfile(info)
    with pytest.raises(CorruptError, match="a link or a device"):
        convert(tmp_path / "link.tar", tmp_path / "ds", from_="gen-dgrl")


def test_a_bomb_is_not_unpacked(tmp_path):
    with tarfile.open(tmp_path / "bomb.tar.xz", "w:xz") as out:
        info = tarfile.TarInfo("0.npy")
        info.size = 1 << 24
        out.addfile(info, io.BytesIO(bytes(1 << 24)))
    data = tmp_path / "big.tar"
    info = tarfile.TarInfo("0.npy")
    info.size = 1 << 40
    data.write_bytes(info.tobuf() + bytes(1024))
    with pytest.raises(CorruptError):
        convert(data, tmp_path / "ds", from_="gen-dgrl")
    with pytest.raises(CorruptError, match="no pickled dict"):
        convert(tmp_path / "bomb.tar.xz", tmp_path / "ds", from_="gen-dgrl")


def test_lengths_and_kinds_must_agree(tmp_path):
    values = episode(4, 0)
    values["actions"] = values["actions"][:2]
    with pytest.raises(CorruptError, match="lengths disagree: observations 5, actions 2"):
        convert(archive(tmp_path / "a.tar", [values]), tmp_path / "ds")
    other = episode(4, 1)
    other["observations"] = other["observations"].astype("f4")
    with pytest.raises(IncompatibleError, match="observations is"):
        convert(archive(tmp_path / "b.tar", [episode(4, 0), other]), tmp_path / "ds")
    lacking = {name: value for name, value in episode(4, 0).items() if name != "dones"}
    with pytest.raises(CorruptError, match="has no dones"):
        convert(archive(tmp_path / "c.tar", [lacking]), tmp_path / "ds")


@pytest.mark.parametrize("mode", ["w", "w:xz"])
def test_damage_is_one_line_and_leaves_nothing(tmp_path, mode):
    path = archive(tmp_path / "x.tar", [episode(3, 0), episode(4, 1)], mode)
    sound = path.read_bytes()
    rng = np.random.default_rng(1)
    for number in range(40):
        data = bytearray(sound)
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data if number % 2 else data[: int(rng.integers(len(data)))])
        out = tmp_path / f"out{number}"
        try:
            convert(path, out, from_="gen-dgrl")
        except RLError:
            assert not out.exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


# -- Stable-Baselines3 ---------------------------------------------------------------------------------


@pytest.fixture
def buffers(monkeypatch):
    """Classes that pickle under the names of Stable-Baselines3's."""
    module = types.ModuleType("stable_baselines3.common.buffers")
    spaces = types.ModuleType("gymnasium.spaces.discrete")
    for name, place in (("ReplayBuffer", module), ("DictReplayBuffer", module), ("Discrete", spaces)):
        kind = type(name, (), {"__module__": place.__name__, "__qualname__": name})
        setattr(place, name, kind)
    monkeypatch.setitem(sys.modules, "stable_baselines3", types.ModuleType("stable_baselines3"))
    monkeypatch.setitem(sys.modules, "stable_baselines3.common", types.ModuleType("stable_baselines3.common"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, spaces.__name__, spaces)
    return module, spaces


def fill(buffer, capacity, envs, steps, *, shares=False, nested=False, ends=()):
    """Adds steps as SB3's `add` does; returns what was added, `[steps, envs, …]`."""
    rng = np.random.default_rng(0)
    observed = rng.standard_normal((steps, envs, 3)).astype("f4")
    following = np.concatenate([observed[1:], rng.standard_normal((1, envs, 3)).astype("f4")])
    done, timeout = np.zeros((steps, envs), "f4"), np.zeros((steps, envs), "f4")
    for step, env, is_timeout in ends:
        following[step, env] = rng.standard_normal(3)
        done[step, env], timeout[step, env] = 1, is_timeout
    action = rng.integers(0, 4, (steps, envs, 1))
    reward = rng.standard_normal((steps, envs)).astype("f4")
    store = {name: np.zeros((capacity, envs, *value.shape[2:]), value.dtype) for name, value in (
        ("observations", observed), ("next_observations", following), ("actions", action),
        ("rewards", reward), ("dones", done), ("timeouts", timeout))}  # fmt: skip
    for step in range(steps):
        at = step % capacity
        store["observations"][at] = observed[step]
        target = ("observations", (at + 1) % capacity) if shares else ("next_observations", at)
        store[target[0]][target[1]] = following[step]
        for name, value in (("actions", action), ("rewards", reward), ("dones", done), ("timeouts", timeout)):
            store[name][at] = value[step]
    if shares:
        del store["next_observations"]
    if nested:
        for name in ("observations", "next_observations"):
            store[name] = {"state": store[name], "goal": store[name] + 1}
    buffer.__dict__ |= {**store, "pos": steps % capacity, "full": steps >= capacity, "buffer_size": capacity}
    return observed, following, action, reward, done, timeout


def save(path, buffer):
    path.write_bytes(pickle.dumps(buffer, pickle.HIGHEST_PROTOCOL))
    return path


def test_a_pickle_needs_to_be_trusted_and_is_not_run_then_either(tmp_path, buffers, capfd):
    buffer = buffers[0].ReplayBuffer()
    fill(buffer, 10, 1, 7)
    buffer.device = Evil()
    path = save(tmp_path / "buffer.pkl", buffer)
    with pytest.raises(UsageError, match="can run any code"):
        convert(path, tmp_path / "ds")
    report = convert(path, tmp_path / "ds", trust_pickle=True, check=True)
    assert report["format"] == "sb3"
    assert report["rows"] == 7
    assert "must not run" not in capfd.readouterr().err


@pytest.mark.parametrize("steps", [7, 10, 14])
def test_rows_come_environment_by_environment_oldest_first(tmp_path, buffers, steps):
    buffer = buffers[0].ReplayBuffer()
    buffer.action_space = buffers[1].Discrete()
    values = fill(buffer, 10, 2, steps, ends=((steps - 4, 0, 0), (steps - 3, 1, 1)))
    convert(save(tmp_path / "buffer.pkl", buffer), tmp_path / "ds", trust_pickle=True, check=True)
    kept = slice(max(0, steps - 10), None)
    expected = [value[kept].swapaxes(0, 1).reshape(-1, *value.shape[2:]) for value in values]
    with Dataset.open(tmp_path / "ds") as dataset:
        assert np.array_equal(dataset.read(("observation",)), expected[0])
        assert np.array_equal(dataset.read(("next", "observation")), expected[1])
        assert np.array_equal(dataset.read(("action",)), expected[2].reshape(-1))
        assert np.array_equal(dataset.read(("next", "reward"))[:, 0], expected[3])
        size = min(steps, 10)
        assert dataset.episodes.length.tolist() == [size - 3, 3, size - 2, 2]
        assert dataset.episodes.terminated.tolist() == [True, False, False, False]
        assert dataset.episodes.cut.tolist() == [False, True, False, True]
        assert dataset.spec["action"]["type"] == "discrete"


def test_shared_observations_are_unknown_where_an_episode_ended(tmp_path, buffers):
    for steps in (7, 14):
        buffer = buffers[0].ReplayBuffer()
        observed, following, *_ = fill(buffer, 10, 1, steps, shares=True, ends=((steps - 3, 0, 0),))
        path = save(tmp_path / f"{steps}.pkl", buffer)
        report = convert(path, tmp_path / f"ds{steps}", trust_pickle=True, check=True)
        rows = min(steps, 9)
        with Dataset.open(tmp_path / f"ds{steps}") as dataset:
            assert np.array_equal(dataset.read(("observation",)), observed[-rows:, 0])
            assert dataset.unknown_next.tolist() == [rows - 3]
            assert np.array_equal(dataset.read(("next", "observation"))[-1], following[-1, 0])
        assert report["rows"] == rows


@pytest.mark.parametrize("steps", [7, 14])
def test_what_follows_the_newest_row_is_known_though_its_episode_ended(tmp_path, buffers, steps):
    buffer = buffers[0].ReplayBuffer()
    _, following, *_ = fill(buffer, 10, 2, steps, shares=True, ends=((steps - 1, 0, 0), (steps - 1, 1, 1)))
    convert(save(tmp_path / "buffer.pkl", buffer), tmp_path / "ds", trust_pickle=True, check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.unknown_next.tolist() == []
        rows = dataset.num_rows // 2
        assert np.array_equal(dataset.read(("next", "observation"))[rows - 1 :: rows], following[-1])


def test_a_trusted_pickle_may_hold_very_many_small_objects(monkeypatch):
    """As the buffer of hindsight replay does, which has a dict for each of its places."""
    data = pickle.dumps([{} for _ in range(1000)])
    monkeypatch.setattr(safe_pickle, "_MAX_OPCODES", 1000)
    assert len(safe_pickle.loads(data, "things")) == 1000
    with pytest.raises(safe_pickle.Refused, match="more than 1,000 instructions"):
        safe_pickle.loads(data)


def test_dict_observations_stay_nested(tmp_path, buffers):
    buffer = buffers[0].DictReplayBuffer()
    observed, *_ = fill(buffer, 10, 1, 6, nested=True)
    convert(save(tmp_path / "b.pkl", buffer), tmp_path / "ds", trust_pickle=True, check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert np.array_equal(dataset.read(("observation", "goal")), observed[:, 0] + 1)


def test_broken_buffers_are_one_line(tmp_path, buffers):
    buffer = buffers[0].ReplayBuffer()
    fill(buffer, 10, 1, 6)
    sound = save(tmp_path / "b.pkl", buffer).read_bytes()
    rng = np.random.default_rng(0)
    for number in range(60):
        data = bytearray(sound)
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        (tmp_path / "b.pkl").write_bytes(data if number % 2 else data[: int(rng.integers(len(data)))])
        out = tmp_path / f"out{number}"
        try:
            convert(tmp_path / "b.pkl", out, from_="sb3", trust_pickle=True)
        except RLError:
            assert not out.exists()
    (tmp_path / "c.pkl").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(InputError, match="not a replay buffer"):
        convert(tmp_path / "c.pkl", tmp_path / "ds", from_="sb3", trust_pickle=True)


@pytest.mark.skipif("RL_SB3_PYTHON" not in os.environ, reason="RL_SB3_PYTHON names no Python")
def test_what_stable_baselines3_saves_is_read(tmp_path):
    script = f"""
import gymnasium, numpy as np
from stable_baselines3 import DQN
model = DQN("MlpPolicy", "CartPole-v1", buffer_size=200, learning_starts=10**6, seed=0)
model.learn(300)
model.save_replay_buffer({str(tmp_path / "b.pkl")!r})
b = model.replay_buffer
order = (b.pos + np.arange(200)) % 200
np.savez({str(tmp_path / "b.npz")!r}, o=b.observations[order, 0], a=b.actions[order, 0, 0])
"""
    subprocess.run([os.environ["RL_SB3_PYTHON"], "-c", script], check=True, capture_output=True)
    convert(tmp_path / "b.pkl", tmp_path / "ds", trust_pickle=True, check=True)
    expected = np.load(tmp_path / "b.npz")
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.num_rows == 200
        assert np.array_equal(dataset.read(("observation",)), expected["o"])
        assert np.array_equal(dataset.read(("action",)), expected["a"])


def test_a_header_that_does_not_end_is_corrupt(tmp_path):
    header = b"{'descr': '|O', 'shape': (,\n"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with tarfile.open(tmp_path / "x.tar", "w") as out:
        info = tarfile.TarInfo("bigfish/0.npy")
        info.size = len(data)
        out.addfile(info, io.BytesIO(data))
    with pytest.raises(CorruptError):
        convert(tmp_path / "x.tar", tmp_path / "ds", from_="gen-dgrl")
