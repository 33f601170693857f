"""Batches drawn ahead in a thread, and on their way to a device."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from rlcli.replay.batches import Batches
from rlcli.replay.sampler import State
from rlcli.replay.transfer import Transfer


class Prefetch(Iterator[Any]):
    """Draws up to `depth` batches ahead; gives the same ones as `batches` would.

    With `device` a batch's tensors are copied there (`batches` must be of the form torch or tensordict;
    `pinned` ones go to a CUDA device faster). `state` is that after the last batch given out: those drawn
    ahead are drawn again. Priorities told in between meet batches that are already drawn, so how many they
    meet depends on the threads. Close it, or use it as a context.
    """

    def __init__(self, batches: Batches, depth: int = 2, device: Any = None) -> None:
        if depth < 1 or (batches.keep and batches.keep < depth + 2):
            raise ValueError("depth is at least 1, and `keep` of the batches 0 or at least depth + 2")
        if device is not None and batches.form == "numpy":
            raise ValueError(
                "arrays stay where they are: batches for a device are of the form torch or tensordict"
            )
        self.batches = batches
        self.depth = depth
        self._transfer = None if device is None else Transfer(device)
        self._position = batches.sampler.position()
        self._thread: threading.Thread | None = None
        self._queue: queue.Queue[Any] = queue.Queue(depth)
        self._stop = threading.Event()

    def __next__(self) -> Any:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="rl-prefetch", daemon=True)
            self._thread.start()
        batch, position, error = self._queue.get()
        if error is not None:
            self.close()
            raise error
        self._position = position
        return batch if self._transfer is None else self._transfer.take(batch)

    def state(self) -> State:
        """As after the last batch given out; what was drawn ahead is forgotten."""
        self.close()
        return self.batches.state()

    def load_state(self, state: State) -> None:
        """Forgets what was drawn ahead and goes on from `state`."""
        self.close()
        self.batches.load_state(state)
        self._position = self.batches.sampler.position()

    def close(self) -> None:
        """Ends the thread; the sampler goes on where the last batch given out left it."""
        if self._thread is None:
            return
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.01)
            except queue.Empty:
                continue
        self._thread.join()
        self._thread = None
        self._queue = queue.Queue(self.depth)
        self._stop.clear()
        self.batches.sampler.seek(self._position)

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _work(self) -> None:
        while not self._stop.is_set():
            item: tuple[Any, Any, Exception | None]
            try:
                batch = next(self.batches)
                if self._transfer is not None:
                    batch = self._transfer.send(batch)
                item = (batch, self.batches.sampler.position(), None)
            except Exception as err:  # noqa: BLE001 - raised again where the batch is taken
                item = (None, None, err)
            self._queue.put(item)
            if item[2] is not None:
                return
