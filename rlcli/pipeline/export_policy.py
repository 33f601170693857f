"""`rl convert RUN policy.onnx | .pt2 | .ts`: a trained policy as a file that runs without this package.

The file has the network with what surrounds it (features of the observation, scaling and clipping of the
action) and takes batches of any size. Before it appears it is loaded again and compared with the policy.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from rlcli.config import opt
from rlcli.errors import UsageError, nearest
from rlcli.format.nested import nest
from rlcli.format.specs import Box, Discrete, Key, Leaf, leaves, spec_from_json
from rlcli.pipeline import provenance
from rlcli.pipeline.outputs import publish, refuse_existing, unfinished
from rlcli.pipeline.policy import NetworkPolicy, policy_from_run
from rlcli.pipeline.run import open_run
from rlcli.plugins import require

SUFFIXES: dict[str, Literal["onnx", "pt2", "ts"]] = {".onnx": "onnx", ".pt2": "pt2", ".ts": "ts", ".pt": "ts"}
BATCHES = (1, 3, 64)  # sizes of the batches that are compared


@dataclass(frozen=True)
class Options:
    """What can be told about a policy that is exported."""

    checkpoint: str = opt("best", "Which checkpoint: best, last or a step.")


def export_policy(run: Path, out: Path, options: Options, to: str | None = None) -> dict[str, Any]:
    """Write the policy's mode, deterministic actions, of a run to the new file `out`; returns the report.

    `to` is `onnx`, `pt2` (`torch.export`) or `ts` (TorchScript); the suffix of `out` says it otherwise.
    `max_difference` in the report is the largest difference between an action of the file, loaded again, and
    of the policy, over random observations of several batch sizes.

    Raises `UsageError` for another suffix or an `out` that exists, `InputError` or `CorruptError` for the
    run, `MissingExtraError` without the packages that ONNX needs.
    """
    refuse_existing(out)
    kind = to or SUFFIXES.get(out.suffix.lower())
    if kind not in _WRITERS:
        raise UsageError(
            f"{run} is a run; its policy becomes a file ending in {', '.join(SUFFIXES)}",
            hint=f"for example: rl convert {run} policy.onnx; {nearest(kind or out.suffix, SUFFIXES)}",
        )
    policy, identity = policy_from_run(run, which=options.checkpoint)
    observation = spec_from_json(open_run(run).info["spec"]["observation"])
    observation = getattr(policy.algorithm, "input", observation)
    inputs = leaves(observation, ("observation",))
    rng = np.random.default_rng(0)
    samples = [_draw(inputs, size, rng) for size in BATCHES]
    paths = [key[1:] for key in inputs]
    module = PolicyModule(policy, paths, _used(policy, paths, samples[0])).eval()
    with unfinished(out) as temporary:
        with _quietly():
            call = _WRITERS[kind](module, tuple(samples[1]), [".".join(key) for key in inputs], temporary)
            with torch.no_grad():
                differences = [_difference(module(*sample), call(sample)) for sample in samples]
        report = {
            "format": kind,
            "policy": identity,
            "inputs": [
                {"name": ".".join(key), "dtype": leaf.dtype, "shape": ["batch", *leaf.shape]}
                for key, leaf in inputs.items()
            ],
            "max_difference": max(differences),
            "compared": sum(BATCHES),
            "bytes": temporary.stat().st_size,
            "sha256": provenance.sha256_file(temporary),
        }
        publish(temporary, out)
    return {"file": str(out), **report}


class PolicyModule(nn.Module):
    """The mode of a policy as a module: leaves of the observation `[B, …]` in, actions `[B, …]` out."""

    def __init__(self, policy: NetworkPolicy, paths: Sequence[Key], used: Sequence[str]) -> None:
        super().__init__()
        self._policy, self._paths, self._used = policy, list(paths), list(used)
        for name in used:
            self.register_buffer(f"state_{name}", policy.state[name].detach().clone())

    def forward(self, *values: Tensor) -> Tensor:
        """Actions for the leaves of a batch of observations, in the order of the spec."""
        policy = self._policy
        state = {name: self.get_buffer(f"state_{name}") for name in self._used}
        observation = _nested(self._paths, values)
        action: Tensor = policy.algorithm.act(state, observation, policy.nets, policy.config)
        return action


def _nested(paths: Sequence[Key], values: Sequence[Tensor]) -> Any:
    """Leaves at their places in a nested dict; the one leaf of a flat observation as it is."""
    return values[0] if list(paths) == [()] else nest(paths, values)


class _Watched(dict[str, Any]):
    """A state that remembers which of its parts were read."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        super().__init__(state)
        self.read: list[str] = []

    def __getitem__(self, name: str) -> Any:
        if name not in self.read:
            self.read.append(name)
        return super().__getitem__(name)


def _used(policy: NetworkPolicy, paths: Sequence[Key], sample: Sequence[Tensor]) -> list[str]:
    """The names of what acting reads of the algorithm's state: optimisers and targets stay behind."""
    watched = _Watched(policy.state)
    with torch.no_grad():
        policy.algorithm.act(watched, _nested(paths, sample), policy.nets, policy.config)
    return watched.read


def _draw(inputs: Mapping[Key, Leaf], size: int, rng: np.random.Generator) -> list[Tensor]:
    """Random observations: uniform where bounds are finite, normal elsewhere."""
    return [torch.from_numpy(_draw_leaf(leaf, size, rng)) for leaf in inputs.values()]


def _draw_leaf(leaf: Leaf, size: int, rng: np.random.Generator) -> Any:
    shape = (size, *leaf.shape)
    if isinstance(leaf, Discrete):
        return leaf.start + rng.integers(0, leaf.n, shape)
    if isinstance(leaf, Box) and leaf.low is not None and leaf.high is not None:
        low, high = leaf.bounds()
        known = np.isfinite(low) & np.isfinite(high) & (np.abs(high) < 1e6)
        drawn = np.where(known, low, 0) + rng.random(shape) * np.where(
            known, high - np.where(known, low, 0), 0
        )
        return np.where(known, drawn, rng.standard_normal(shape)).astype(leaf.dtype)
    if isinstance(leaf, Box):
        return rng.standard_normal(shape).astype(leaf.dtype)
    return rng.integers(0, 2, shape).astype(leaf.dtype)


def _difference(wanted: Tensor, found: Any) -> float:
    array = np.asarray(found)
    if array.shape != tuple(wanted.shape):
        raise ValueError(f"the file gives actions {array.shape}, the policy {tuple(wanted.shape)}")
    return float(np.abs(array.astype(np.float64) - wanted.numpy().astype(np.float64)).max(initial=0.0))


Call = Callable[[Sequence[Tensor]], Any]


def _write_pt2(module: nn.Module, sample: tuple[Tensor, ...], names: list[str], out: Path) -> Call:
    stored = io.BytesIO()
    torch.export.save(torch.export.export(module, sample, dynamic_shapes=_dynamic(sample)), stored)
    out.write_bytes(stored.getbuffer())
    loaded = torch.export.load(io.BytesIO(out.read_bytes())).module()
    return lambda batch: loaded(*batch).numpy()


def _write_ts(module: nn.Module, sample: tuple[Tensor, ...], names: list[str], out: Path) -> Call:
    traced: Any = torch.jit.trace(module, sample)  # type: ignore[no-untyped-call]
    stored = io.BytesIO()
    torch.jit.save(traced, stored)
    out.write_bytes(stored.getbuffer())  # a full disk is an error here, and torch's own writing would abort
    loaded = torch.jit.load(str(out))  # type: ignore[no-untyped-call]
    return lambda batch: loaded(*batch).numpy()


def _write_onnx(module: nn.Module, sample: tuple[Tensor, ...], names: list[str], out: Path) -> Call:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package, "export", needed_for="writing ONNX and comparing it with the policy")
    import onnxruntime

    program = torch.onnx.export(
        module, sample, dynamo=True, input_names=names, output_names=["action"],
        dynamic_shapes=_dynamic(sample), verbose=False,
    )  # fmt: skip
    assert program is not None
    program.save(out)
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    known = [item.name for item in session.get_inputs()]  # what acting does not read is not an input

    def call(batch: Sequence[Tensor]) -> Any:
        given = {name: value.numpy() for name, value in zip(names, batch, strict=True) if name in known}
        return session.run(None, given)[0]

    return call


_WRITERS = {"onnx": _write_onnx, "pt2": _write_pt2, "ts": _write_ts}


def _dynamic(sample: tuple[Tensor, ...]) -> Any:
    batch = torch.export.Dim("batch", min=1)
    return (tuple({0: batch} for _ in sample),)


@contextmanager
def _quietly() -> Iterator[None]:
    """torch warns about its own deprecations here, about shapes that it guards, and that torchvision is not
    there.
    """
    exporter = logging.getLogger("torch.onnx")
    before = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(before)


def remarks(report: dict[str, Any]) -> list[str]:
    """What a person should read about an exported policy, a line each."""
    policy = report["policy"]
    inputs = [f"{told['name']} {told['dtype']}{told['shape']}".replace("'", "") for told in report["inputs"]]
    return [
        f"{policy['algorithm']} policy of step {policy['step']:,} as {report['format']}, "
        f"{report['bytes']:,} bytes, batches of any size",
        f"it takes {', '.join(inputs)}",
        f"largest difference from the policy over {report['compared']} observations: "
        f"{report['max_difference']:.2g}",
    ]
