"""Which foreign formats `rl convert` knows. A new format is one line here and one module beside it."""

from __future__ import annotations

import contextlib
import importlib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rlcli.datasets.stopping import heeding
from rlcli.errors import InputError, RLError, UsageError, nearest
from rlcli.plugins import is_reference, load_reference

if TYPE_CHECKING:
    from rlcli.datasets.contract import ConverterModule


@dataclass(frozen=True)
class Converter:
    """A format: where its module is, which way it goes, what must be installed for it.

    `suffixes` are of outputs that are written; reading goes by content. `names`: it knows datasets by name.
    """

    module: str
    help: str
    suffixes: tuple[str, ...] = ()
    reads: bool = True
    writes: bool = True
    extra: str | None = None  # the extra of `pip install 'rlcli[extra]'`, None if the base install has it
    names: bool = False


#: Content is asked in this order: what has the strictest signature first, plain formats last.
CONVERTERS = {
    "d4rl": Converter(
        "rlcli.datasets.d4rl",
        "D4RL HDF5: one flat file of transitions, a folder of them, or d4rl:NAME",
        (".hdf5", ".h5"),
        names=True,
    ),
    "rlds": Converter(
        "rlcli.datasets.rlds",
        "RLDS of TensorFlow Datasets, Open X-Embodiment: TFRecord episodes, or ArrayRecord with the extra "
        "array_record",
    ),
    "rlu": Converter("rlcli.datasets.rlu", "RL Unplugged's raw TFRecord shards", writes=False),
    "robomimic": Converter(
        "rlcli.datasets.robomimic", "robomimic HDF5, also MimicGen, LIBERO, RoboCasa, Isaac Lab"
    ),
    "maniskill": Converter(
        "rlcli.datasets.maniskill",
        "ManiSkill HDF5: traj_<i> groups, and their JSON beside them",
        writes=False,
    ),
    "roboset": Converter("rlcli.datasets.roboset", "RoboSet HDF5: Trial<i> groups", writes=False),
    "minari": Converter(
        "rlcli.datasets.minari",
        "Minari: hdf5, arrow or parquet episodes (the latter two with the extra minari), or minari:NAME",
        names=True,
    ),
    "atari": Converter("rlcli.datasets.atari", "Atari DQN replay: Dopamine's logs", writes=False),
    "torchrl": Converter("rlcli.datasets.torchrl", "TorchRL ReplayBuffer.dumps, TensorDict memory maps"),
    "vd4rl": Converter(
        "rlcli.datasets.vd4rl",
        "V-D4RL, and replay of DrQ-v2 (URLB, ExORL): aligned by arrival, npz or HDF5",
        writes=False,
    ),
    "lerobot": Converter(
        "rlcli.datasets.lerobot", "LeRobot v2.0, v2.1 and v3.0: Parquet rows and MP4 videos", extra="lerobot"
    ),
    "gen-dgrl": Converter(
        "rlcli.datasets.gen_dgrl", "Gen-DGRL: tar or folder of pickled episodes", writes=False
    ),
    "sb3": Converter("rlcli.datasets.sb3", "Stable-Baselines3 replay buffers (--trust-pickle)", writes=False),
    "openml": Converter(
        "rlcli.datasets.openml",
        "OpenML's ARFF; with --from, CSV and Parquet of features and a label",
        writes=False,
    ),
    "zarr": Converter(
        "rlcli.datasets.zarr_groups",
        "Zarr replay buffer, or named arrays; JPEG XL with the extra imagecodecs",
        (".zarr",),
    ),
    "npz": Converter("rlcli.datasets.npz", "NumPy archive of named arrays, or a folder of them", (".npz",)),
    "hdf5": Converter(
        "rlcli.datasets.hdf5_plain",
        "HDF5 file of named arrays, in any group, or a group per episode; or a folder of files",
    ),
    "parquet": Converter(
        "rlcli.datasets.parquet",
        "Parquet: a row per step or per episode, vectors as lists",
        (".parquet",),
        extra="arrow",
    ),
    "csv": Converter("rlcli.datasets.csv_text", "CSV: a row per step, vectors as x_0, x_1, …", (".csv",)),
}


_LOOKED_AT = 16  # entries of a folder
_PICKLED = "pickles can run code and are not read; save the arrays with numpy.savez"
_UNREAD = {
    ".npy": "an array alone has no name; save several by name with numpy.savez",
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".pth"), _PICKLED),
}


def load(name: str) -> ConverterModule:
    """The module of a format: a name of the table, or the user's own `module:attribute`.

    Raises `UsageError` with the nearest name for an unknown one.
    """
    if name in CONVERTERS:
        return cast("ConverterModule", importlib.import_module(CONVERTERS[name].module))
    if is_reference(name):
        return cast("ConverterModule", load_reference(name))
    raise UsageError(f"there is no format {name!r}; {nearest(name, CONVERTERS)}")


def recognise(path: Path) -> tuple[str, str]:
    """`(format, what it is)` by content. Raises `InputError` that says what was found instead."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder", path=path)
    if not path.is_file() and not path.is_dir():
        raise InputError(f"{path}: not a regular file", path=path)
    suffixed = []  # why it is not what its name says
    for name, converter in heeding(CONVERTERS.items()):
        if converter.reads:
            seen = load(name).detect(path)
            if seen.matches:
                return name, seen.what
            if path.suffix.lower() in converter.suffixes:
                suffixed.append(seen.what)
    told = f": {'; '.join(dict.fromkeys(suffixed))}" if suffixed else ""
    within = _within(path)
    raise InputError(
        f"{path}: not a format that rl converts{told}",
        hint=f"{within[0].name} in it is one ({within[1]}); rl buffer merge joins what comes of several"
        if within
        else _UNREAD.get(
            path.suffix.lower(), "rl convert --list names them; --from FORMAT says why it is not that one"
        ),
        path=path,
    )


def _within(folder: Path) -> tuple[Path, str] | None:
    """One of the first things in a folder that is of a format, and what it is."""
    if not folder.is_dir():
        return None
    for path in sorted(itertools.islice(folder.iterdir(), _LOOKED_AT)):
        for name, converter in CONVERTERS.items():
            if converter.reads and (path.is_file() or path.is_dir()) and not path.name.startswith("."):
                with contextlib.suppress(RLError, OSError):
                    if (seen := load(name).detect(path)).matches:
                        return path, seen.what
    return None


def split_name(text: str) -> tuple[str, str] | None:
    """`("d4rl", "hopper-medium-v2")` of `d4rl:hopper-medium-v2`; None for anything but FORMAT:NAME."""
    name, separator, rest = text.partition(":")
    if separator and rest and name in CONVERTERS and CONVERTERS[name].names:
        return name, rest
    return None


def format_of_output(path: Path) -> str | None:
    """The format that writes outputs with this suffix, None for anything else (which is a dataset)."""
    for suffix in (path.suffix.lower(), "".join(path.suffixes[-2:]).lower()):
        for name, converter in CONVERTERS.items():
            if converter.writes and suffix in converter.suffixes:
                return name
    return None
