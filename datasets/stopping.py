"""Stopping while a source is looked through: what reads for long asks now and then whether to go on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")


def _nobody_asks() -> None:
    """Goes on."""


_check: ContextVar[Callable[[], None]] = ContextVar("check", default=_nobody_asks)


@contextmanager
def stoppable(check: Callable[[], None]) -> Iterator[None]:
    """In the block, and this thread, `check` is called for each item of `heeding`; it may raise."""
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


def heeding(items: Iterable[T]) -> Iterator[T]:
    """The same items; whoever began all this may stop it before each. For loops that take long in all."""
    check = _check.get()
    for item in items:
        check()
        yield item
        del item  # before the next is made
