"""Files laid out as robomimic's: a group per demo."""

from __future__ import annotations

import h5py
import numpy as np

LENGTHS = {"demo_0": 5, "demo_2": 7, "demo_10": 4}  # HDF5 gives demo_10 before demo_2


def demo(length, seed=0, *, following=True):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (length + 1, 6, 5, 3), dtype=np.uint8)
    position = rng.standard_normal((length + 1, 3))
    values = {
        "obs/agentview_image": image[:-1],
        "obs/eef_pos": position[:-1],
        "actions": rng.uniform(-1, 1, (length, 2)),
        "rewards": rng.standard_normal(length),
        "dones": np.zeros(length, np.int64),
        "states": rng.standard_normal((length, 4)),
    }
    values["dones"][-2:] = 1  # success sticks
    if following:
        values |= {"next_obs/agentview_image": image[1:].copy(), "next_obs/eef_pos": position[1:].copy()}
    return values


def write(path, demos, *, attributes=None, masks=None, data=None, **kwargs):
    with h5py.File(path, "w") as file:
        group = file.create_group("data")
        for name, value in (data or {}).items():
            group.attrs[name] = value
        for name, values in demos.items():
            place = group.create_group(name)
            for key, value in values.items():
                place.create_dataset(key, data=value, **(kwargs if np.ndim(value) else {}))
            for key, value in (attributes or {}).get(name, {}).items():
                place.attrs[key] = value
        for name, listed in (masks or {}).items():
            file[f"mask/{name}"] = np.array(listed, dtype="S8")
    return path


def demos(**kwargs):
    return {name: demo(length, seed, **kwargs) for seed, (name, length) in enumerate(LENGTHS.items())}
