"""`tf.train.Example`: bytes made by hand, and equality with protobuf's own implementation."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcli._native import merge_examples
from rlcli.datasets.example import decode, decode_any, encode
from rlcli.errors import CorruptError, IncompatibleError, RLError


def field(number: int, payload: bytes) -> bytes:
    assert len(payload) < 128
    return bytes([number << 3 | 2, len(payload)]) + payload


def example(name: bytes, feature: bytes) -> bytes:
    return field(1, field(1, field(1, name) + field(2, feature)))


@pytest.fixture(scope="module")
def protobuf_example() -> Any:
    """protobuf's message class, from a descriptor built here.

    The map is declared as what it is on the wire, repeated entries (protobuf's encoding guide, "Maps"):
    upb, where the entry of a map has unknown fields, keeps it with them instead of in the map.
    """
    pytest.importorskip("google.protobuf")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, kind in (
        ("BytesList", kinds.TYPE_BYTES),
        ("FloatList", kinds.TYPE_FLOAT),
        ("Int64List", kinds.TYPE_INT64),
    ):
        file.message_type.add(name=name).field.add(
            name="value", number=1, label=kinds.LABEL_REPEATED, type=kind
        )
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, kind_name) in enumerate(
        {"bytes_list": "BytesList", "float_list": "FloatList", "int64_list": "Int64List"}.items(), 1
    ):
        feature.field.add(
            name=name, number=number, label=kinds.LABEL_OPTIONAL, type=kinds.TYPE_MESSAGE,
            type_name=f".t.{kind_name}", oneof_index=0,
        )  # fmt: skip
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.field.add(name="key", number=1, label=kinds.LABEL_OPTIONAL, type=kinds.TYPE_STRING)
    entry.field.add(
        name="value", number=2, label=kinds.LABEL_OPTIONAL, type=kinds.TYPE_MESSAGE, type_name=".t.Feature"
    )
    features.field.add(
        name="feature", number=1, label=kinds.LABEL_REPEATED, type=kinds.TYPE_MESSAGE,
        type_name=".t.Features.FeatureEntry",
    )  # fmt: skip
    file.message_type.add(name="Example").field.add(
        name="features",
        number=1,
        label=kinds.LABEL_OPTIONAL,
        type=kinds.TYPE_MESSAGE,
        type_name=".t.Features",
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


def plain(message: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for entry in message.features.feature:
        kind = entry.value.WhichOneof("kind")
        found[entry.key] = None if kind is None else list(getattr(entry.value, kind).value)
    return found


def listed(decoded: dict[str, Any]) -> dict[str, Any]:
    return {
        name: values.tolist() if isinstance(values, np.ndarray) else values
        for name, values in decoded.items()
    }


INT64 = st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-300, 300) | st.integers(0, 1)
VALUES = st.one_of(
    st.lists(st.binary(max_size=300), max_size=5),
    st.lists(st.floats(width=32, allow_nan=False), max_size=40).map(lambda v: np.array(v, np.float32)),
    st.lists(INT64, max_size=40).map(lambda v: np.array(v, np.int64)),
)
FEATURES = st.dictionaries(st.text(max_size=8), VALUES, max_size=6)


def test_bytes_by_hand() -> None:
    assert decode(b"") == {}
    assert decode(example(b"a", field(1, field(1, b"x") + field(1, b"")))) == {"a": [b"x", b""]}
    floats = decode(example(b"f", field(2, field(1, b"\x00\x00\x80\x3f\x00\x00\x00\xc0"))))["f"]
    assert isinstance(floats, np.ndarray)
    assert floats.dtype == np.float32
    assert floats.tolist() == [1.0, -2.0]
    ints = decode(example(b"i", field(3, field(1, b"\x01\xac\x02" + b"\xff" * 9 + b"\x01"))))["i"]
    assert isinstance(ints, np.ndarray)
    assert ints.dtype == np.int64
    assert ints.tolist() == [1, 300, -1]


def test_absent_kinds_and_empty_lists_are_told_apart() -> None:
    assert decode(example(b"a", b"")) == {"a": None}
    assert decode(field(1, field(1, field(1, b"a")))) == {"a": None}
    for kind, empty in ((1, []), (2, np.empty(0, np.float32)), (3, np.empty(0, np.int64))):
        found = decode(example(b"a", field(kind, b"")))["a"]
        assert found is not None
        assert len(found) == 0
        if isinstance(empty, np.ndarray):
            assert isinstance(found, np.ndarray)
            assert found.dtype == empty.dtype


def test_numbers_need_not_be_packed() -> None:
    floats = field(2, b"\x0d\x00\x00\x80\x3f" + b"\x0d\x00\x00\x00\x40")
    assert listed(decode(example(b"f", floats))) == {"f": [1.0, 2.0]}
    assert listed(decode(example(b"i", field(3, b"\x08\x05\x08\xac\x02")))) == {"i": [5, 300]}
    mixed = b"\x08\x05" + field(1, b"\x06\x07") + b"\x08\x08"
    assert listed(decode(example(b"i", field(3, mixed)))) == {"i": [5, 6, 7, 8]}
    mixed = b"\x0d\x00\x00\x80\x3f" + field(1, b"\x00\x00\x00\x40")
    assert listed(decode(example(b"f", field(2, mixed)))) == {"f": [1.0, 2.0]}


@settings(max_examples=150, deadline=None)
@given(FEATURES)
def test_encode_then_decode_is_the_identity(features: dict[str, Any]) -> None:
    assert listed(decode(encode(features))) == listed(features)


@settings(max_examples=150, deadline=None)
@given(FEATURES)
def test_protobuf_reads_what_we_write_and_we_read_what_it_writes(
    protobuf_example: Any, features: dict[str, Any]
) -> None:
    message = protobuf_example()
    for name, values in features.items():
        feature = message.features.feature.add(key=name).value
        kind = "bytes_list" if isinstance(values, list) else f"{values.dtype.kind}"
        target = getattr(feature, {"f": "float_list", "i": "int64_list"}.get(kind, kind))
        target.SetInParent()
        target.value.extend(values if isinstance(values, list) else values.tolist())
    assert listed(decode(message.SerializeToString())) == listed(features)
    assert plain(protobuf_example.FromString(encode(features))) == listed(features)


@settings(max_examples=300, deadline=None)
@given(FEATURES, st.randoms(use_true_random=False))
def test_mutated_records_decode_as_protobuf_does_or_end_in_a_clean_error(
    protobuf_example: Any, features: dict[str, Any], chance: random.Random
) -> None:
    record = bytearray(encode(features))
    for _ in range(chance.randint(0, 4)):
        at = chance.randrange(len(record) + 1)
        match chance.randrange(3):
            case 0 if at < len(record):
                record[at] = chance.randrange(256)
            case 1:
                record[at:at] = bytes(chance.randrange(256) for _ in range(chance.randrange(4)))
            case _:
                del record[at : at + chance.randrange(4)]
    data = bytes(record)
    from google.protobuf.message import DecodeError

    ours: dict[str, Any] | None = None
    with contextlib.suppress(CorruptError, IncompatibleError):
        ours = listed(decode(data))
    try:
        theirs = plain(protobuf_example.FromString(data))
    except DecodeError:
        return  # groups and overlong tags: we may be as strict or skip them
    if ours is not None:
        assert str(sorted(ours.items())) == str(sorted(theirs.items()))  # NaN equals NaN


def merged(
    records: list[bytes], wanted: dict[str, bool] | None = None, *, views: bool = False
) -> tuple[int, dict[str, Any], dict[str, Any]]:
    sizes = np.array([len(record) for record in records], np.int64)
    return merge_examples(b"".join(records), np.cumsum(sizes) - sizes, sizes, wanted, views)


def same(ours: Any, theirs: Any) -> bool:
    if not isinstance(theirs, np.ndarray):
        return type(ours) is type(theirs) and bool(ours == theirs)
    return (ours.dtype, ours.tobytes()) == (theirs.dtype, theirs.tobytes())


def likeness(example: dict[str, Any]) -> dict[str, Any]:
    """What has to be the same in records that are merged: names, kinds, and which are empty."""
    return {
        name: (str(values.dtype) if isinstance(values, np.ndarray) else type(values), bool(len(values)))
        for name, values in example.items()
    }


@settings(max_examples=300, deadline=None)
@given(FEATURES, st.randoms(use_true_random=False))
def test_the_native_reader_agrees_with_the_general_one_or_leaves_the_record_to_it(
    features: dict[str, Any], rng: random.Random
) -> None:
    whole = encode(features)
    assert merged([whole])[0] == 1
    record = bytearray(whole)
    for _ in range(rng.randint(0, 2)):
        if record:
            record[rng.randrange(len(record))] = rng.randrange(256)
    number, found, _ = merged([bytes(record)])
    if number:
        expected = decode_any(bytes(record))
        assert found.keys() == expected.keys()
        assert all(same(found[name], values) for name, values in expected.items())


@settings(max_examples=200, deadline=None)
@given(st.lists(FEATURES, min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_merged_records_are_each_record_in_turn(kinds: list[dict[str, Any]], rng: random.Random) -> None:
    """Against the general reader of each record, over records whose features are or are not alike."""
    records = []
    for features in kinds * 2:
        names = sorted(features)
        rng.shuffle(names)
        records.append(encode({name: features[name] for name in names}))
    number, found, counts = merged(records)
    assert number >= 1
    each = [decode_any(record) for record in records[:number]]
    for name, values in found.items():
        parts: list[Any] = [example[name] for example in each]
        if values is None:
            assert parts == [None] * number
            assert name not in counts
            continue
        assert counts[name].tolist() == [len(part) for part in parts]
        is_array = isinstance(values, np.ndarray)
        assert same(
            values, np.concatenate(parts) if is_array else [value for part in parts for value in part]
        )
    if number < len(records):
        assert likeness(each[0]) != likeness(decode_any(records[number]))


def test_what_is_wanted_is_read_and_all_is_counted() -> None:
    record = encode({"a": np.array([1, 0, 1]), "b": np.array([1, 300]), "t": [b"x", b"x", b"yz"]})
    number, found, counts = merged([record, record], {"a": True, "b": True, "t": False}, views=True)
    assert number == 2
    assert {name: each.tolist() for name, each in counts.items()} == {
        "a": [3, 3],
        "b": [2, 2],
        "t": [3, 3],
    }
    assert found["a"].dtype == np.uint8
    assert found["a"].tolist() == [1, 0, 1] * 2
    assert found["b"].dtype == np.int64
    assert found["b"].tolist() == [1, 300] * 2
    assert all(isinstance(value, memoryview) for value in found["t"])
    assert [bytes(value) for value in found["t"]] == [b"x", b"x", b"yz"] * 2
    assert found["t"][0] is found["t"][1]
    assert found["t"][1] is not found["t"][2]
    number, found, counts = merged([record], {"b": False, "nothing": False})
    assert number == 1
    assert found.keys() == {"b"}
    assert counts.keys() == {"a", "b", "t"}


@pytest.mark.parametrize(
    ("start", "size"), [(-1, 1), (0, -1), (0, 6), (6, 0), (2**62, 2**62), (5, 2**63 - 1)]
)
def test_a_record_outside_of_its_data_is_refused(start: int, size: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        merge_examples(b"12345", np.array([start]), np.array([size]))


def test_lists_of_one_kind_run_on_and_the_last_kind_wins() -> None:
    one, two = field(3, field(1, b"\x01")), field(3, field(1, b"\x02"))
    text = field(1, field(1, b"x"))
    assert listed(decode(example(b"a", one + two))) == {"a": [1, 2]}
    assert listed(decode(example(b"a", one + text + two))) == {"a": [2]}
    assert listed(decode(example(b"a", text + text))) == {"a": [b"x", b"x"]}


def test_of_equal_names_the_last_counts() -> None:
    first, second = (field(1, field(1, b"a") + field(2, field(3, field(1, bytes([n]))))) for n in (1, 2))
    assert listed(decode(field(1, first + second))) == {"a": [2]}
    assert listed(decode(field(1, first) + field(1, second))) == {"a": [2]}


def test_an_entry_without_a_name_is_that_of_the_empty_name(protobuf_example: Any) -> None:
    for unknown in (b"", b"\x7d" + bytes(4)):
        record = field(1, field(1, unknown + field(2, field(3, field(1, b"\x07")))))
        assert listed(decode(record)) == {"": [7]} == plain(protobuf_example.FromString(record))
        assert decode(field(1, field(1, unknown))) == {"": None}


def test_unknown_fields_are_skipped() -> None:
    noise = field(9, b"zz") + b"\x50\x01" + b"\x55\x00\x00\x00\x00" + b"\x51" + bytes(8)
    feature = field(3, noise + field(1, b"\x07")) + noise
    record = noise + field(1, noise + field(1, field(1, b"a") + noise + field(2, feature)))
    assert listed(decode(record)) == {"a": [7]}


@pytest.mark.parametrize(
    "record",
    [
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # a length near 2**63
        b"\x0a\x05\x0a",
        b"\x0a" + b"\xff" * 11,
        b"\x0b",  # a group
        b"\x02\x00",  # field number 0
        example(b"a", field(3, field(1, b"\x80"))),
        example(b"a", field(3, field(1, b"\xff" * 11 + b"\x01"))),
        example(b"a", field(2, field(1, b"\x00\x00\x00"))),
        example(b"a", field(1, b"\x0a\x7f")),
        example(b"\xff\xfe", field(3, b"")),
    ],
)
def test_hostile_records_name_the_byte(record: bytes) -> None:
    with pytest.raises(CorruptError, match=r"byte [\d,]+ of the record"):
        decode(record)


def test_a_sequence_example_is_named() -> None:
    with pytest.raises(IncompatibleError, match="SequenceExample"):
        decode(field(2, field(1, b"")))


def test_every_truncation_of_a_record_is_an_error_or_a_shorter_record() -> None:
    record = encode({"a": np.arange(40), "b": np.arange(5, dtype=np.float32), "c": [b"x" * 200]})
    for size in range(1, len(record)):
        with pytest.raises(RLError):
            decode(record[:size])


def test_what_an_example_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="complex64"):
        encode({"a": np.zeros(1, np.complex64)})


def test_uint64_keeps_its_bits() -> None:
    values = np.array([0, 1 << 63, (1 << 64) - 1], np.uint64)
    found = decode(encode({"a": values}))["a"]
    assert isinstance(found, np.ndarray)
    assert found.view(np.uint64).tolist() == values.tolist()
