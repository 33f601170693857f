"""Compiles an algorithm's update into one native program, called with tensors and nothing else.

The update is traced to tensor operations once and compiled ahead of time: a call of `torch.compile`'s result
re-checks its arguments in Python for longer than a small update takes. The program is kept in the cache under
a hash of the traced operations, so a later process traces (half a second) and loads it.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from rlcli.errors import InputError
from rlcli.pipeline import products
from rlcli.pipeline.execution import cache_dir, cpu_model

State = dict[str, Any]
Metrics = dict[str, Tensor]
Update = Callable[[State, Mapping[str, Any]], tuple[State, Metrics]]
# The element-wise loops apart from the code that calls them, which torch compiles without optimisation.
OPTIONS: dict[str, Any] = {"cpp_wrapper_build_separate": True}

Key = tuple[str, ...]  # where a tensor lies in nested mappings


@dataclass(frozen=True)
class Program:
    """`run` takes the leaves of state and batch, overwrites the state's and returns the metrics.

    It checks nothing: `shapes` and `dtypes` are what the batch's leaves must have.
    """

    paths: list[Key]
    shapes: list[torch.Size]
    dtypes: list[torch.dtype]
    run: Callable[[list[Tensor]], list[Tensor]]
    metrics: tuple[str, ...]


class CompiledUpdate:
    """`update(state, batch)` with the batch as paths and tensors, compiled once per shape of its inputs.

    It works in place on a state of its own: the one it returned last. Any other is copied first and stays
    as it is. `compiled` is called after a program's first run. `bf16x6` multiplies wide float32 matrices on
    bfloat16 units, as exactly (see `products`).
    """

    def __init__(self, update: Update, compiled: Callable[[], None], *, bf16x6: bool = False) -> None:
        self._update = update
        self._compiled = compiled
        self._bf16x6 = bf16x6
        self._programs: list[Program] = []
        self._state: State = {}
        self._leaves: list[Tensor] = []
        self._shape: Any = ()

    def __call__(self, state: State, paths: list[Key], leaves: list[Tensor]) -> tuple[State, Metrics]:
        """The new state and its metrics. Raises `InputError` if the update cannot be compiled."""
        if state is not self._state:
            self._adopt(state)
        leaves = [leaf.contiguous() for leaf in leaves]
        shapes, dtypes = [leaf.shape for leaf in leaves], [leaf.dtype for leaf in leaves]
        for program in self._programs:
            if program.shapes == shapes and program.dtypes == dtypes and program.paths == paths:
                values = program.run(self._leaves + leaves)
                return self._state, dict(zip(program.metrics, values, strict=True))
        run, metrics = _compile(self._update, self._state, paths, leaves, self._bf16x6)
        self._programs.append(Program(paths, shapes, dtypes, run, metrics))
        values = run(self._leaves + leaves)
        self._compiled()
        return self._state, dict(zip(metrics, values, strict=True))

    def _adopt(self, state: State) -> None:
        paths, leaves = _flat(state)
        self._leaves = [leaf.detach().clone(memory_format=torch.contiguous_format) for leaf in leaves]
        self._state = nested(paths, self._leaves)
        shape = paths, [(leaf.shape, leaf.dtype) for leaf in leaves]
        if shape != self._shape:
            self._shape = shape
            self._programs.clear()


def nested(paths: Sequence[Key], leaves: Sequence[Tensor]) -> dict[str, Any]:
    """Nested dicts with each leaf at its path."""
    tree: dict[str, Any] = {}
    for path, leaf in zip(paths, leaves, strict=True):
        branch = tree
        for name in path[:-1]:
            branch = branch.setdefault(name, {})
        branch[path[-1]] = leaf
    return tree


def _flat(state: Mapping[str, Any], above: Key = ()) -> tuple[list[Key], list[Tensor]]:
    """The paths of all tensors, sorted, and the tensors."""
    paths: list[Key] = []
    leaves: list[Tensor] = []
    for name in sorted(state):
        value = state[name]
        inner = ([(*above, name)], [value]) if isinstance(value, Tensor) else _flat(value, (*above, name))
        paths += inner[0]
        leaves += inner[1]
    return paths, leaves


def _compile(
    update: Update, state: State, paths: list[Key], leaves: list[Tensor], bf16x6: bool
) -> tuple[Callable[[list[Tensor]], list[Tensor]], tuple[str, ...]]:
    """The program of an update on leaves of the state and such leaves of a batch, and its metrics' names."""
    state_paths, state_leaves = _flat(state)
    names: tuple[str, ...] = ()

    def step(*inputs: Tensor) -> list[Tensor]:
        nonlocal names
        old = inputs[: len(state_paths)]
        new, metrics = update(nested(state_paths, old), nested(paths, inputs[len(state_paths) :]))
        names = tuple(metrics)
        values = [metric.clone() for metric in metrics.values()]
        for target, leaf in zip(old, _flat(new)[1], strict=True):
            target.copy_(leaf)
        return values

    # Before the first use of the compiler, which settles on a place for its intermediate files.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "inductor"))
    example = tuple(leaf.clone() for leaf in (*state_leaves, *leaves))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about its own use of its own functions
            table: dict[Any, Any] = {torch.ops.aten.addmm.default: _addmm}
            options = OPTIONS
            if bf16x6:
                table[torch.ops.aten.mm.default] = products.mm
                options = OPTIONS | products.compiler_options()
            traced = make_fx(step, decomposition_table=table)(*example)
            return _load(traced, example, options), names
    except RuntimeError as err:
        reason = (str(err).strip() or type(err).__name__).splitlines()[0]
        raise InputError(f"the update cannot be compiled: {reason}", hint="use --compile off") from err


def _load(
    traced: GraphModule, example: tuple[Tensor, ...], options: dict[str, Any]
) -> Callable[[list[Tensor]], list[Tensor]]:
    """The native program of `traced`, from the cache if it is there; a damaged one is made anew."""
    folder, identity = cache_dir() / "compiled", _identity(traced, example, options)
    for cached in folder.glob(f"{identity}-*.pt2"):
        with suppress(OSError):
            if cached == _named(folder, identity, cached.read_bytes()):
                return _run(cached)
            cached.unlink()
    exported = torch.export.export(traced, example)
    with tempfile.TemporaryDirectory() as scratch:
        built = Path(scratch) / "update.pt2"
        given = dict(options)  # torch adds to it
        torch._inductor.aoti_compile_and_package(exported, package_path=str(built), inductor_configs=given)
        program = built.read_bytes()
        file = _named(folder, identity, program)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            own = file.with_name(f"{file.name}.{os.getpid()}")
            own.write_bytes(program)
            own.replace(file)
        except OSError:
            return _run(built)  # the cache only saves time
    return _run(file)


def _named(folder: Path, identity: str, program: bytes) -> Path:
    """Where a program lies: its name has a hash of its bytes, so a damaged one is known."""
    return folder / f"{identity}-{xxhash.xxh3_64_hexdigest(program)}.pt2"


def _run(file: Path) -> Callable[[list[Tensor]], list[Tensor]]:
    loaded: Any = torch._inductor.aoti_load_package(str(file), run_single_threaded=True)
    run: Callable[[list[Tensor]], list[Tensor]] = loaded.loader.run
    return run


def _identity(traced: GraphModule, example: tuple[Tensor, ...], options: dict[str, Any]) -> str:
    """A hash of all that the program depends on: operations, constants, shapes, machine, torch."""
    facts = [
        traced.code,
        *[f"{leaf.dtype} {tuple(leaf.shape)}" for leaf in example],
        f"{torch.__version__} {cpu_model()} {options}",
        f"{torch.get_num_threads()} threads, matmul {torch.get_float32_matmul_precision()}",
    ]
    digest = hashlib.sha256("\n".join(facts).encode())
    for name, constant in sorted(traced.named_buffers()):
        digest.update(f"{name} {constant.dtype} {tuple(constant.shape)}".encode())
        digest.update(constant.contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def _addmm(bias: Tensor, x: Tensor, weight: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    # Inductor turns `mm + bias` into addmm, which first copies the bias over the output (4 % of a SAC
    # update); a difference it leaves to the element-wise kernel that follows.
    assert (beta, alpha) == (1, 1)
    return torch.mm(x, weight) - (-bias)
