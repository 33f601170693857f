"""`rl convert --check`: source and result are read again, independently, and compared row by row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

from rlcli import console
from rlcli.datasets.comparing import compare_parts
from rlcli.datasets.contract import Advance, Comparison, ConverterModule, NoOptions, Request
from rlcli.datasets.stacked import whole
from rlcli.errors import CorruptError
from rlcli.format.dataset import Dataset
from rlcli.pipeline.convert_rows import Selection
from rlcli.pipeline.convert_tasks import reading_whole

_HELD_BYTES = 64 << 20


def of_import(
    module: ConverterModule,
    path: Path,
    request: Request,
    options: Any,
    selection: Selection,
    dataset: Dataset,
    stop: console.Stop,
) -> dict[str, Any]:
    """Compares the source with the dataset made of it. Raises `CorruptError` with the first difference."""
    own = getattr(module, "compare", None)
    dataset = whole(dataset)

    def compare(advance: Advance) -> Comparison:
        if own is not None and selection.is_whole and (found := own(path, dataset, advance)) is not None:
            return cast(Comparison, found)
        with (
            module.open_source(path, replace(request, again=True), options) as source,
            reading_whole(source, selection, lambda count: None) as (_, parts),
        ):
            return compare_parts(parts, source.schema, dataset, advance, all_keys=True)

    return _judged(compare, dataset, stop)


def of_output(
    module: ConverterModule, output: Path, dataset: Dataset, stop: console.Stop
) -> dict[str, Any] | None:
    """Compares a written output with its dataset, in all columns that the output holds."""
    own = getattr(module, "compare", None)
    dataset = whole(dataset)

    def compare(advance: Advance) -> Comparison:
        if own is not None and (found := own(output, dataset, advance)) is not None:
            return cast(Comparison, found)
        options = getattr(module, "Options", NoOptions)()
        derive, images = bool(dataset.schema.derived), _images(dataset)
        request = Request(confirmed=True, derive=derive, images=images, again=True)
        with (
            module.open_source(output, request, options) as source,
            reading_whole(source, Selection(), lambda count: None) as (_, parts),
        ):
            return compare_parts(parts, source.schema, dataset, advance, all_keys=False)

    return _judged(compare, dataset, stop)


def _images(dataset: Dataset) -> Literal["keep", "decode"]:
    """Whether an output of the dataset is read with its pictures as they are, or decoded as ours are."""
    told = (dataset.extra or {}).get("source", {}).get("images")
    if told in ("keep", "decode"):
        return cast(Literal["keep", "decode"], told)
    heaps = [column.heap for column in dataset.schema.heaps if column.heap is not None]
    return (
        "keep" if any(heap.value == "bytes" or heap.codec in ("jpeg", "png") for heap in heaps) else "decode"
    )


def releasing(dataset: Dataset, advance: Advance) -> Advance:
    """The same `advance`; every 64 MiB the dataset gives back the pages that were read."""
    held = 0

    def both(count: int) -> None:
        nonlocal held
        held += count
        if held >= _HELD_BYTES:
            dataset.release()
            held = 0
        advance(count)

    return both


def _judged(compare: Any, dataset: Dataset, stop: console.Stop) -> dict[str, Any]:
    def advance(count: int) -> None:
        stop.raise_if_requested("check stopped, nothing was written")
        bar.advance(count)

    with console.progress(None, "check", "B") as bar:
        found: Comparison = compare(releasing(dataset, advance))
    if found.problems:
        more = f" (and {len(found.problems) - 1} more)" if len(found.problems) > 1 else ""
        raise CorruptError(
            f"the result differs from the source: {found.problems[0]}{more}; nothing was written"
        )
    return {"equal": True, "rows": found.rows, "sums": found.sums}
