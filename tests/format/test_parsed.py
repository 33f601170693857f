"""Equal bytes are parsed once, and what is kept is bounded by the bytes it was parsed from."""

from __future__ import annotations

from rlcli.format import parsed


def test_equal_bytes_are_parsed_once_for_each_purpose() -> None:
    calls: list[tuple[bytes, str]] = []

    @parsed.once
    def parse(sha256: str, data: bytes, path: object, purpose: str) -> list[str]:
        calls.append((data, purpose))
        return [sha256, purpose]

    first = parse("1", b"one", "a/path", "x")
    assert parse("1", b"one", "another/path", "x") is first
    assert parse("1", b"one", "a/path", "y") == ["1", "y"]
    assert parse("2", b"two", "a/path", "x") == ["2", "x"]
    assert calls == [(b"one", "x"), (b"one", "y"), (b"two", "x")]


def test_the_oldest_leave_when_there_are_too_many_bytes() -> None:
    calls: list[str] = []

    @parsed.once
    def parse(sha256: str, data: bytes, path: object) -> str:
        calls.append(sha256)
        return sha256

    half = bytes(1 << 19)
    for sha256 in ("1", "2", "2", "1", "3", "2", "1"):
        assert parse(sha256, half, "") == sha256
    assert calls == ["1", "2", "3", "1"]  # the third put out the first
    huge = bytes((1 << 20) + 1)
    assert parse("4", huge, "") == parse("4", huge, "") == "4"
    assert calls[4:] == ["4", "4"]
