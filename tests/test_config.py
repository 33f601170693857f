"""One dataclass drives flags, TOML, `--set` and the saved config: precedence, types, bounds, round trips."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlcli.config import (
    from_dict,
    opt,
    options,
    parse_count,
    parse_value,
    resolve,
    resolve_sections,
    to_dict,
    to_toml,
)
from rlcli.errors import InputError, UsageError

RUNS = Path("runs")


@dataclass(frozen=True)
class Config:
    """An example with every field type a config may have."""

    lr: float = opt(3e-4, "Step size.", gt=0, source="Kingma & Ba, 2015")
    steps: int = opt(100, "How many.", ge=1)
    hidden: tuple[int, ...] = opt((64, 64), "Widths.", ge=1)
    activation: Literal["relu", "tanh"] = opt("relu", "Between layers.")
    dueling: bool = opt(False, "Two heads.")
    clip: float | None = opt(None, "None is off.", gt=0)
    name: str = opt("", "A label.")
    folder: Path = opt(RUNS, "Where.")


# ---- numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [("500", 500), ("100k", 100_000), ("1e6", 10**6), ("1_000", 1000), ("1.5M", 1_500_000), ("2g", 2 * 10**9),
     ("-3", -3), (" 7 ", 7), ("9007199254740993", 9007199254740993), ("2.3M", 2_300_000), ("1.005k", 1005)],
)  # fmt: skip
def test_counts(text: str, value: int) -> None:
    assert parse_count(text) == value


@pytest.mark.parametrize(
    "text", ["", "k", "1.5", "1.0005k", "ten", "1kk", "inf", "nan", "1e400", "0x10", "--1", "1 0"]
)
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(ValueError, match="whole number"):
        parse_count(text)


@given(st.integers(-(10**15), 10**15))
def test_every_way_to_write_a_count_means_it(number: int) -> None:
    assert parse_count(str(number)) == number
    assert parse_count(f"{number:_}") == number
    for suffix, digits in (("k", 3), ("M", 6), ("G", 9)):
        sign, size = ("-" if number < 0 else ""), abs(number)
        decimal = f"{sign}{size // 10**digits}.{size % 10**digits:0{digits}d}{suffix}"
        assert parse_count(decimal) == number


@given(st.text(max_size=12))
def test_a_count_is_an_integer_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(parse_count(text), int)


# ---- one definition


def test_an_option_knows_its_flag_type_and_source() -> None:
    by_name = {option.name: option for option in options(Config)}
    assert by_name["lr"].flag == "--lr"
    assert by_name["lr"].source == "Kingma & Ba, 2015"
    assert by_name["hidden"].type_name == "int,…"
    assert by_name["activation"].type_name == "relu|tanh"
    assert list(by_name) == ["lr", "steps", "hidden", "activation", "dueling", "clip", "name", "folder"]


def test_precedence_is_default_file_set_flag(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("lr = 1e-1\nsteps = 10\nhidden = [1]\n")
    config = resolve(Config, file=file, sets=["steps=20", "hidden=2,2"], flags={"hidden": (3,), "lr": None})
    assert (config.activation, config.lr, config.steps, config.hidden) == ("relu", 0.1, 20, (3,))


def test_sections_share_one_file_and_one_set_of_flags(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Runner:
        """Options of another owner."""

        seed: int = opt(0, "")

    file = tmp_path / "c.toml"
    file.write_text("lr = 0.5\n[algorithm]\nsteps = 7\n[runner]\nseed = 3\n")
    sections = {"algorithm": Config, "runner": Runner}
    both = resolve_sections(sections, file=file, sets=["seed=4"], flags={"steps": 8})
    assert (both["algorithm"].lr, both["algorithm"].steps, both["runner"].seed) == (0.5, 8, 4)
    file.write_text("[runer]\nseed = 3\n")
    with pytest.raises(UsageError, match="did you mean 'runner'"):
        resolve_sections(sections, file=file)


def test_dashes_and_underscores_are_one_name() -> None:
    @dataclass(frozen=True)
    class Long:
        """Two words."""

        batch_size: int = opt(1, "")

    assert resolve(Long, sets=["batch-size=2"]).batch_size == 2


@pytest.mark.parametrize("where", ["file", "set", "flag"])
def test_an_unknown_key_is_an_error_with_the_nearest_name(where: str, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("stepz = 1\n" if where == "file" else "")
    sets = ["stepz=1"] if where == "set" else []
    flags = {"stepz": 1} if where == "flag" else {}
    with pytest.raises(UsageError, match="did you mean 'steps'"):
        resolve(Config, file=file, sets=sets, flags=flags)


def test_an_option_under_another_table_is_an_error(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Run:
        """The other table."""

        seed: int = opt(0, "")

    file = tmp_path / "c.toml"
    file.write_text("[run]\nlr = 0.1\n")
    with pytest.raises(UsageError, match=r"c\.toml: \[run\] has no option 'lr'"):
        resolve_sections({"run": Run, "algorithm": Config}, file=file)


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ("steps=many", "whole number"),
        ("steps=0", "≥ 1"),
        ("lr=0", "> 0"),
        ("lr=nan", "finite"),
        ("lr=inf", "finite"),
        ("lr=fast", "not a number"),
        ("hidden=64,0", "≥ 1"),
        ("activation=rleu", "did you mean 'relu'"),
        ("dueling=maybe", "true or false"),
        ("clip=-1", "> 0"),
        ("steps", "key=value"),
    ],
)
def test_a_wrong_value_says_why(item: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        resolve(Config, sets=[item])


@pytest.mark.parametrize(
    "line",
    [
        "steps = 1.5",
        "steps = true",
        "hidden = 3",
        'lr = "fast"',
        "name = 3",
        "dueling = 1",
        "clip = [1]",
        "steps = 99999999999999999999",
    ],
)
def test_a_wrong_type_in_the_file_names_file_and_key(line: str, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(line + "\n")
    with pytest.raises(UsageError, match=f"c.toml: {line.split()[0]}"):
        resolve(Config, file=file)


@pytest.mark.parametrize("content", [b"steps = ", b"\xff\xfe", None])
def test_a_file_that_cannot_be_read_is_an_input_error(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=r"c\.toml"):
        resolve(Config, file=file)


def test_none_and_optional_values() -> None:
    assert resolve(Config, sets=["clip=0.5"]).clip == 0.5
    assert resolve(Config, sets=["clip=none"]).clip is None
    assert parse_value("", tuple[int, ...]) == ()


# ---- round trips

configs = st.builds(
    Config,
    lr=st.floats(min_value=1e-300, allow_nan=False, allow_infinity=False),
    steps=st.integers(1, 2**62),
    hidden=st.lists(st.integers(1, 10**6), max_size=4).map(tuple),
    activation=st.sampled_from(["relu", "tanh"]),
    dueling=st.booleans(),
    clip=st.none() | st.floats(min_value=1e-9, max_value=1e9),
    name=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    folder=st.sampled_from([Path("a/b"), Path("/x y"), Path("ü")]),
)


@given(configs)
def test_the_saved_toml_reads_back_to_the_same_config(config: Config) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8", newline="") as file:
        file.write(to_toml(config))
        file.flush()
        assert resolve(Config, file=Path(file.name)) == config


@given(configs)
def test_the_dictionary_reads_back_to_the_same_config(config: Config) -> None:
    assert from_dict(Config, to_dict(config)) == config
