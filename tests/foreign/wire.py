"""Protobuf's wire format, by hand: messages of any descriptor, with anomalies of every kind, and which are good.

[`decodes`] is the strict reading of https://protobuf.dev/programming-guides/encoding/: a known field has the wire type
of its declaration, text is UTF-8, groups are balanced, nothing is cut short. It shares nothing with the vault's own.
"""

from google.protobuf.descriptor import FieldDescriptor as Field
from hypothesis import strategies as st

VARINT, FIXED64, LENGTH, GROUP, GROUP_END, FIXED32 = range(6)
LARGEST_NUMBER = (1 << 29) - 1
# What nests deeper is refused by every decoder; they differ by one in how they count.
DEPTH = 100

VARINTS = {
    Field.TYPE_INT32,
    Field.TYPE_INT64,
    Field.TYPE_UINT32,
    Field.TYPE_UINT64,
    Field.TYPE_SINT32,
    Field.TYPE_SINT64,
    Field.TYPE_BOOL,
    Field.TYPE_ENUM,
}


class Malformed(Exception):
    """It is no message of that descriptor."""


# === writing ===


def varint(number, length=0):
    """A varint, with as many bytes as wanted where it would do with fewer."""
    number &= (1 << 64) - 1
    encoded = bytearray()
    while number > 0x7F or len(encoded) + 1 < length:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def key(number, wire_type):
    return varint(number << 3 | wire_type)


def framed(number, payload):
    return key(number, LENGTH) + varint(len(payload)) + payload


def wire_type(field):
    if field.type in VARINTS:
        return VARINT
    if field.type in (Field.TYPE_STRING, Field.TYPE_BYTES, Field.TYPE_MESSAGE):
        return LENGTH
    return FIXED64 if field.type in (Field.TYPE_DOUBLE, Field.TYPE_FIXED64, Field.TYPE_SFIXED64) else FIXED32


def nested(depth, number=1):
    """Groups in groups."""
    return key(number, GROUP) * depth + key(number, GROUP_END) * depth


# === reading ===


def read_varint(data, at, end):
    number = 0
    for place in range(10):
        if at + place >= end:
            raise Malformed
        byte = data[at + place]
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            if number >= 1 << 64:
                raise Malformed
            return number, at + place + 1
    raise Malformed


def read_key(data, at, end):
    number, at = read_varint(data, at, end)
    if number >> 32 or number >> 3 == 0 or number & 7 > FIXED32:
        raise Malformed
    return number >> 3, number & 7, at


def skipped(data, at, end, number, kind, depth):
    """Where an unknown field ends."""
    if depth < 0:
        raise Malformed
    if kind == VARINT:
        return read_varint(data, at, end)[1]
    if kind == LENGTH:
        length, at = read_varint(data, at, end)
    elif kind == GROUP:
        while True:
            inner, inner_kind, at = read_key(data, at, end)
            if inner_kind == GROUP_END:
                if inner != number:
                    raise Malformed
                return at
            at = skipped(data, at, end, inner, inner_kind, depth - 1)
    elif kind == GROUP_END:
        raise Malformed
    else:
        length = 8 if kind == FIXED64 else 4
    if at + length > end:
        raise Malformed
    return at + length


def check(data, descriptor, at=0, end=None, depth=DEPTH):
    end = len(data) if end is None else end
    while at < end:
        number, kind, at = read_key(data, at, end)
        field = descriptor.fields_by_number.get(number)
        if field is None:
            at = skipped(data, at, end, number, kind, depth)
            continue
        expected = wire_type(field)
        if kind != expected:
            raise Malformed
        if kind == VARINT:
            at = read_varint(data, at, end)[1]
            continue
        if kind != LENGTH:
            at = skipped(data, at, end, number, kind, depth)
            continue
        length, at = read_varint(data, at, end)
        if at + length > end:
            raise Malformed
        if field.type == Field.TYPE_MESSAGE:
            check(data, field.message_type, at, at + length, depth - 1)
        elif field.type == Field.TYPE_STRING:
            try:
                data[at : at + length].decode("utf-8")
            except UnicodeDecodeError:
                raise Malformed from None
        at += length


def decodes(data, descriptor):
    """Whether `data` is a message of that descriptor."""
    try:
        check(data, descriptor)
    except Malformed:
        return False
    return True


# === drawing ===

# Text that is refused by every grammar there is, each piece long enough to be recognized where it must not stand.
HOSTILE = [
    "evilmark/../evilmark",
    "evilmark\0evilmark",
    "EVILMARK-evilmark",
    "evilmark\u0301 evilmark",
    "evilm\u0430rk \u202e evilmark",
    "evilmark\r\nevilmark: 1",
    "evilmark" * 1280,
    "\U0001f511evilmark\U0010ffff",
    "evilmark. ",
    # Shares no twelve bytes with a value: an auditor's question stands in the log, and values are looked for there.
    "4111 1111 evilmark",
]
NUMBERS = [0, 1, 2, 3, 7, 100, 1000, 1001, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, (1 << 64) - 1]
BAD_TEXT = [b"\xff", b"evilmark\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80", b"\x80evilmark"]
# What a signed field sees as negative, and more bits than it has.
SIGNED = [-1, -(1 << 31), -(1 << 63), (1 << 35) + 1]


def text(good):
    return st.one_of(*[st.sampled_from(good)] * 16, st.sampled_from(HOSTILE), st.just(""), st.text(max_size=12)).map(
        lambda drawn: drawn.encode("utf-8", "replace")
    )


@st.composite
def field(draw, descriptor, one, good, depth):
    """One field, well formed, as often as a message that makes sense would have it."""
    hints = good(descriptor, one)
    if one.type == Field.TYPE_MESSAGE:
        value = draw(message(one.message_type, good, depth + 1)) if depth < 4 else b""
    elif one.type == Field.TYPE_STRING:
        value = draw(text(hints or ["", "a"]))
    elif one.type == Field.TYPE_BYTES:
        value = draw(st.one_of(*[st.sampled_from(hints)] * 4 if hints else [], st.binary(max_size=40)))
    else:
        number = draw(st.one_of(*[st.sampled_from(hints or [0, 1, 2])] * 6, st.sampled_from(NUMBERS + SIGNED)))
        return key(one.number, VARINT) + varint(number)
    return framed(one.number, value)


@st.composite
def message(draw, descriptor, good, depth=0):
    """A well-formed message: each field a few times at most, in any order."""
    parts = []
    for one in descriptor.fields:
        usual = good(descriptor, one) is not None
        if one.is_repeated:
            count = draw(st.sampled_from([1, 1, 1, 2, 3, 0] if usual else [0]))
        elif one.type == Field.TYPE_MESSAGE or not usual:
            count = draw(st.sampled_from([0, 0, 1]))
        else:
            count = draw(st.sampled_from([1] * 9 + [0]))
        parts += [draw(field(descriptor, one, good, depth)) for _ in range(count)]
    return b"".join(draw(st.permutations(parts)) if len(parts) > 1 else parts)


def unknown_numbers(descriptor):
    known = set(descriptor.fields_by_number)
    return st.one_of(st.integers(1, 40), st.sampled_from([LARGEST_NUMBER, 19_000, 1 << 20])).filter(
        lambda number: number not in known
    )


@st.composite
def anomaly(draw, descriptor, good, body):
    """The message with something in it that few encoders write. Some of it is allowed."""
    fields = list(descriptor.fields)
    kinds = ["unknown", "group", "deep", "cut", "key", "overlong", "end"]
    kinds += ["duplicate", "type", "wide", "text", "nested", "length"] if fields else []
    kind = draw(st.sampled_from(kinds))
    number = draw(unknown_numbers(descriptor))
    front = draw(st.booleans())
    add = lambda piece: piece + body if front else body + piece
    match kind:
        case "unknown":
            wire = draw(st.sampled_from([VARINT, FIXED64, LENGTH, FIXED32]))
            fillings = {VARINT: varint((1 << 64) - 1), FIXED64: b"8 bytes!", FIXED32: b"four"}
            return add(key(number, wire) + fillings.get(wire, varint(9) + b"evilmark!"))
        case "group":
            inner = draw(st.sampled_from([b"", b"\x08\x01", b"\x12\x04evil", nested(3, 2)]))
            return add(key(number, GROUP) + inner + key(number, GROUP_END))
        case "deep":
            # Well below what is allowed, and well above.
            return add(nested(draw(st.sampled_from([10, 90, 110, 1000, 100_000])), number))
        case "cut":
            return body[: draw(st.integers(0, max(len(body) - 1, 0)))]
        case "key":
            # A field of number 0, a wire type that there is not, a number beyond the largest.
            return add(draw(st.sampled_from([b"\x00\x01", b"\x0e\x01", b"\x0f\x01", varint(1 << 32 | 8) + b"\x01"])))
        case "overlong":
            length = draw(st.sampled_from([2, 5, 9, 10, 11, 12, 70]))
            return add(key(number, VARINT) + varint(draw(st.sampled_from([0, 1, 1 << 40])), length))
        case "end":
            start = key(number, GROUP)
            return add(draw(st.sampled_from([key(number, GROUP_END), start, start + b"\x0c"])))
    one = draw(st.sampled_from(fields))
    match kind:
        case "duplicate":
            return body + b"".join(draw(field(descriptor, one, good, 0)) for _ in range(draw(st.integers(1, 3))))
        case "type":
            others = [other for other in range(FIXED32 + 1) if other not in (GROUP_END, wire_type(one))]
            wire = draw(st.sampled_from(others))
            fillings = {VARINT: b"\x01", FIXED64: b"8 bytes!", FIXED32: b"four", GROUP: key(one.number, GROUP_END)}
            return add(key(one.number, wire) + fillings.get(wire, b"\x02\x08\x01"))
        case "wide":
            # More bits than the field has, or all of them; for text, a length with more bytes than it needs.
            if wire_type(one) == VARINT:
                number = draw(st.sampled_from(SIGNED))
                return add(key(one.number, VARINT) + varint(number, draw(st.sampled_from([0, 10]))))
            return add(key(one.number, LENGTH) + varint(0, draw(st.sampled_from([2, 5, 10, 11]))))
        case "text":
            return add(framed(one.number, draw(st.sampled_from(BAD_TEXT))))
        case "nested":
            inner = draw(anomaly(one.message_type, good, b"")) if one.type == Field.TYPE_MESSAGE else b"\xff"
            return add(framed(one.number, inner))
    # A length beyond the end, or beyond any memory.
    length = draw(st.sampled_from([1, 1 << 20, 1 << 31, 1 << 32, (1 << 64) - 1]))
    return body + key(one.number, LENGTH) + varint(length)


@st.composite
def bodies(draw, descriptor, good):
    """A message, mostly with one anomaly or two."""
    body = draw(message(descriptor, good))
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2]))):
        body = draw(anomaly(descriptor, good, body))
    return body
