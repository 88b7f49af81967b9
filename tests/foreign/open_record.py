"""Opens a stored record with nothing of Cloakroom's: written from docs/formats.md alone.

Every constant below stands on that page. If this program and the vault disagree, the page is wrong or the vault is.

    open_record.py vectors DIR                     checks this program against the frozen vectors
    open_record.py open VAULT --scope S --token T  opens T's record in a stopped vault; prints the value's SHA-256
    open_record.py without-root-key VAULT ...      the same with the token and everything on disk but the root key
    open_record.py without-token VAULT ...         the same with the root key and everything on disk but the token
    open_record.py rows VAULT                      checks that every stored row is what the page says

T is a file that holds the token or, with `-`, standard input: arguments can be seen by others. `without-...` succeed if
nothing opens, and `without-token` takes the handle instead.
"""

import argparse
import base64
import contextlib
import hashlib
import hmac
import json
import os
import re
import shutil
import sys
import tempfile
import zlib
from pathlib import Path

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


class Refused(Exception):
    """What the page says is to be refused. Its text is a fixed word or names a row; it never holds a value."""


def u16(number):
    return number.to_bytes(2, "big")


def u32(number):
    return number.to_bytes(4, "big")


def u64(number):
    return number.to_bytes(8, "big")


def number(data):
    return int.from_bytes(data, "big")


# === Notation ===


def lp(*fields):
    return b"".join(u16(len(field)) + field for field in fields)


def mac(key, message):
    return hmac.new(key, message, hashlib.sha256).digest()


def derive(secret, *fields):
    return mac(mac(bytes(32), secret), lp(*fields) + b"\x01")


NONCE = bytes(12)
TAG = 16


def seal(key, associated, plaintext):
    return AESGCM(key).encrypt(NONCE, plaintext, associated)


def unseal(key, associated, sealed):
    try:
        return AESGCM(key).decrypt(NONCE, sealed, associated)
    except InvalidTag:
        raise Refused("does not open") from None


# === Keys and how they derive ===


def wrapping_key(root, vault, key_id, version, salt):
    return derive(root, b"cloakroom/v1/wrap", vault, key_id, u32(version), salt)


def meta_key(root, vault):
    return derive(root, b"cloakroom/v1/meta", vault)


def outer_key(data_key, vault, scope, handle, salt):
    return derive(data_key, b"cloakroom/v1/outer", vault, u32(scope), handle, salt)


def inner_key(canonical, vault, scope, handle, created, salt):
    return derive(canonical, b"cloakroom/v1/inner", vault, u32(scope), handle, u64(created), salt)


def answer_key(request_key, request_id, vault, name, payload, salt):
    secret = mac(request_key, lp(b"cloakroom/v1/answer", request_id))
    return derive(secret, b"cloakroom/v1/answer", vault, name, payload, salt)


def request_name(request_key, caller, request_id):
    return mac(request_key, lp(b"cloakroom/v1/request", caller, request_id))


# === Sums over the records ===

MODULUS = 1 << 256
MASKED = 16 + 8 + 32


def element(state_key, handle, row):
    """Of a record: its outer salt lies in front of the sealed value, its outer tag at the end."""
    return number(mac(state_key, lp(b"\x01" + handle + Record(row).outer_salt + row[-TAG:])))


def group_of(scope, created):
    return u32(scope) + u32(created // 86_400_000)


def mask_sum(state_key, group, random, count, total):
    mask = number(mac(state_key, lp(b"\x00" + group + random)))
    return random + u64(count) + ((mask + total) % MODULUS).to_bytes(32, "big")


def unmask_sum(state_key, group, masked):
    """Number of records and their sum."""
    if len(masked) != MASKED:
        raise Refused("a masked sum's length")
    mask = number(mac(state_key, lp(b"\x00" + group + masked[:16])))
    return number(masked[16:24]), (number(masked[24:]) - mask) % MODULUS


def state_line(state_key, size, count, total):
    digest = mac(state_key, lp(b"\x02" + u64(size) + u64(count) + total.to_bytes(32, "big")))
    return f"state {count} {digest.hex()}"


# === Tokens (opaque) ===

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
BODY_DIGITS = 27
CHECKSUM_DIGITS = 6


def base62(value, length):
    text = ""
    for _ in range(length):
        value, digit = divmod(value, 62)
        text = DIGITS[digit] + text
    return text


def from_base62(text):
    value = 0
    for digit in text:
        value = value * 62 + DIGITS.index(digit)
    return value


def checksum(prefix, body):
    return base62(zlib.crc32(f"{prefix}_{body}".encode()), CHECKSUM_DIGITS)


def parse_token(text):
    """Prefix, masked second and random of a token."""
    shape = re.fullmatch(rb"([a-z][a-z0-9]{0,15})_(.{33})", text.encode(), re.DOTALL)
    if not shape:
        raise Refused("token_shape")
    prefix, rest = shape[1].decode(), shape[2]
    if any(byte not in DIGITS.encode() for byte in rest):
        raise Refused("token_alphabet")
    body, check = rest[:BODY_DIGITS].decode(), rest[BODY_DIGITS:].decode()
    if checksum(prefix, body) != check:
        raise Refused("token_checksum")
    value = from_base62(body)
    if value >= 1 << 160:
        raise Refused("token_out_of_range")
    whole = value.to_bytes(20, "big")
    return prefix, whole[:4], whole[4:]


def canonical_of(prefix, random):
    return prefix.encode() + random


def xor(left, right):
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def handle_input(scope, canonical):
    return lp(u32(scope), canonical)


def handle_of(index_key, scope, canonical, masked):
    whole = mac(index_key, handle_input(scope, canonical))
    return xor(masked, whole[16:20]) + whole[:16]


# === Tokens (uuid) ===

UUID = re.compile(rb".{8}-.{4}-.{4}-.{4}-.{12}", re.DOTALL)
HEX = b"0123456789abcdefABCDEF"


def uuid_of(random):
    """The 16 bytes of a version 4 UUID."""
    return random[:6] + bytes([random[6] & 0x0F | 0x40, random[7], random[8] & 0x3F | 0x80]) + random[9:]


def uuid_text(data):
    return "-".join(data[start:end].hex() for start, end in ((0, 4), (4, 6), (6, 8), (8, 10), (10, 16)))


def parse_uuid(text):
    """The canonical bytes of a token."""
    if not UUID.fullmatch(text.encode()):
        raise Refused("token_shape")
    digits = b"".join(text.encode()[at : at + length] for at, length in ((0, 8), (9, 4), (14, 4), (19, 4), (24, 12)))
    if any(digit not in HEX for digit in digits):
        raise Refused("token_alphabet")
    data = bytes.fromhex(digits.decode())
    if data != uuid_of(data):
        raise Refused("token_version")
    return data


def uuid_handle(index_key, scope, canonical):
    return bytes(4) + mac(index_key, handle_input(scope, canonical))[:16]


def name_token(index_key, scope, token):
    """Canonical bytes and handle of a token of either format. No token is of both."""
    if UUID.fullmatch(token.encode()):
        canonical = parse_uuid(token)
        return canonical, uuid_handle(index_key, scope, canonical)
    prefix, masked, random = parse_token(token)
    canonical = canonical_of(prefix, random)
    return canonical, handle_of(index_key, scope, canonical, masked)


# === Records ===

HAS_USES, HAS_SUBJECT, HAS_FINGERPRINT = 1, 2, 4
STATES = {1: "active", 2: "revoked", 3: "suspended"}
FIXED_HEADER = 43


class Record:
    """A row of `tokens`, taken apart. Nothing in it is authentic before it has been opened."""

    def __init__(self, row):
        if len(row) < FIXED_HEADER:
            raise Refused("record too short")
        if row[0] != 1:
            raise Refused("record format")
        flags = row[1]
        if flags & ~(HAS_USES | HAS_SUBJECT | HAS_FINGERPRINT):
            raise Refused("record flags")
        if row[2] not in STATES:
            raise Refused("record state")
        self.state = row[2]
        self.scope, self.index_key_version, self.data_key_version, self.version = (
            number(row[at : at + 4]) for at in (3, 7, 11, 15)
        )
        self.created, self.changed, self.expires = (number(row[at : at + 8]) for at in (19, 27, 35))
        place = FIXED_HEADER

        def take(length):
            nonlocal place
            place += length
            if place > len(row):
                raise Refused("record too short")
            return row[place - length : place]

        self.uses_left = number(take(4)) if flags & HAS_USES else None
        self.subject = take(32) if flags & HAS_SUBJECT else None
        self.fingerprint = take(32) if flags & HAS_FINGERPRINT else None
        self.header = row[:place]
        self.inner_salt, self.outer_salt = take(16), take(16)
        self.front, self.sealed = row[:place], row[place:]
        length = len(self.sealed) - 2 * TAG
        if length < 16 or padded_length(length) != length:
            raise Refused("record length")

    def unlock(self, vault, handle, data_key):
        """The inner sealed value: needs the data key, not the token."""
        return unseal(outer_key(data_key, vault, self.scope, handle, self.outer_salt), self.front, self.sealed)

    def open(self, vault, handle, data_key, canonical):
        inner = self.unlock(vault, handle, data_key)
        key = inner_key(canonical, vault, self.scope, handle, self.created, self.inner_salt)
        return unpad(unseal(key, b"", inner))


def padded_length(length):
    if length <= 256:
        step = 16
    else:
        e = length.bit_length() - 1
        k = (e.bit_length() - 1) + 1
        step = 1 << (e - k)
    return -(-length // step) * step


def pad(value):
    content = u32(len(value)) + value
    return content.ljust(padded_length(len(content)), b"\0")


def unpad(padded):
    length = number(padded[:4])
    value = padded[4 : 4 + length]
    if len(value) != length or pad(value) != padded:
        raise Refused("padding")
    return value


# === Wrapped keys ===


def wrap(root, vault, key_id, version, salt, key):
    return b"\x01" + salt + seal(wrapping_key(root, vault, key_id, version, salt), b"\x01" + salt, key)


def unwrap(root, vault, key_id, version, wrapped):
    if len(wrapped) != 81 or wrapped[0] != 1:
        raise Refused("wrapped key format")
    salt = wrapped[1:33]
    return unseal(wrapping_key(root, vault, key_id, version, salt), b"\x01" + salt, wrapped[33:])


# === MACs of meta, keys and scopes ===

MAC = 32
MINUTE = 60_000


def row_mac(key, table, row_key, content):
    return mac(key, lp(table.encode(), row_key, content))


# === a stopped vault ===

TABLES = ["tokens", "expiry", "fingerprints", "requests", "scopes", "events", "tree", "event_index", "keys", "meta", "state"]
ROOT_KEY_LINE = r"cloakroom-root-key-v1:([0-9a-f]{64})\n?"
KEY_ROW = 99


def read_root_key(path):
    line = re.fullmatch(ROOT_KEY_LINE, Path(path).read_text(encoding="ascii"))
    if not line:
        raise Refused("root key file")
    return bytes.fromhex(line[1])


@contextlib.contextmanager
def database(directory):
    """The tables of a stopped vault, to read. Each can be iterated as (key, row) and asked for one row."""
    from rocksdict import AccessType, Options, Rdict

    families = {name: Options(raw_mode=True) for name in [*TABLES, "default"]}
    # From a copy: this library leaves a file of its own even where it only reads.
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(directory, copy, dirs_exist_ok=True)
        rows = Rdict(copy, Options(raw_mode=True), families, AccessType.read_only())
        try:
            yield {name: rows.get_column_family(name) for name in [*TABLES, "default"]}
        finally:
            rows.close()


class Vault:
    """What the page says about a vault's own rows, with the root key or without."""

    def __init__(self, tables, root):
        self.tables, self.root = tables, root
        if self.claimed("meta", b"format") != u32(3):
            raise Refused("format of the data")
        self.id = self.behind_version(self.claimed("meta", b"vault"), 16)
        self.meta_key = meta_key(root, self.id) if root else None

    def claimed(self, table, row_key):
        row = self.tables[table].get(row_key)
        if row is None or len(row) < MAC:
            raise Refused(f"{table} has no row {row_key!r}")
        return row[:-MAC]

    def checked(self, table, row_key):
        content = self.claimed(table, row_key)
        if row_mac(self.meta_key, table, row_key, content) != self.tables[table].get(row_key)[-MAC:]:
            raise Refused(f"MAC of a row of {table}: the root key is another vault's, or the row was changed")
        return content

    @staticmethod
    def behind_version(content, length=None):
        if content[:1] != b"\x01" or (length is not None and len(content) != 1 + length):
            raise Refused("format of a row")
        return content[1:]

    def check_meta(self):
        for name in (b"format", b"vault", b"log", b"log_keys"):
            self.checked("meta", name)

    def scope_id(self, path, read=None):
        return number(self.behind_version((read or self.checked)("scopes", path.encode()), 4))

    def key(self, key_id, version):
        content = self.checked("keys", key_id + b"\0" + u32(version))
        if len(content) != KEY_ROW or content[0] != 1 or content[1] != 1:
            raise Refused("format of a key")
        return unwrap(self.root, self.id, key_id, version, content[18:])

    def index_key(self):
        return self.key(b"index", 1)

    def data_key(self, scope, version):
        return self.key(b"data/%d" % scope, version)

    def record(self, handle):
        row = self.tables["tokens"].get(handle)
        if row is None:
            raise Refused("there is no record for this token in this scope")
        return Record(row)

    def open(self, path, token):
        """The value, its record and its handle."""
        self.check_meta()
        scope = self.scope_id(path)
        canonical, handle = name_token(self.index_key(), scope, token)
        record = self.record(handle)
        if record.scope != scope:
            raise Refused("another scope's record")
        value = record.open(self.id, handle, self.data_key(scope, record.data_key_version), canonical)
        return value, record, handle


def opens(attempt):
    try:
        attempt()
    except Refused:
        return False
    return True


def show(**facts):
    print(json.dumps(facts))


def command_open(options):
    with database(options.vault / "data") as tables:
        vault = Vault(tables, read_root_key(options.root_key or options.vault / "root.key"))
        value, record, handle = vault.open(options.scope, read_token(options.token))
    if options.value_to:
        with open(options.value_to, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(value)
    show(
        sha256=hashlib.sha256(value).hexdigest(),
        length=len(value),
        handle=handle.hex(),
        state=STATES[record.state],
        record_version=record.version,
        created=record.created,
        expires=record.expires,
        uses_left=record.uses_left,
    )


def command_without_root_key(options):
    """With the token and the whole directory but root.key: everything is tried that this leaves."""
    prefix, _masked, random = parse_token(read_token(options.token))
    canonical = canonical_of(prefix, random)
    with database(options.vault / "data") as tables:
        vault = Vault(tables, None)
        scope = vault.scope_id(options.scope, vault.claimed)
        tried = 0
        for handle, row in tables["tokens"].items():
            record = Record(row)
            # The inner key is at hand, since its salt, the handle and the vault's id stand there in clear. What it
            # would open is not: the outer lock is around it.
            inner = inner_key(canonical, vault.id, scope, handle, record.created, record.inner_salt)
            for sealed in (record.sealed, record.sealed[:-TAG]):
                for associated in (b"", record.front):
                    tried += 1
                    if opens(lambda: unseal(inner, associated, sealed)):
                        sys.exit("a record opened with its token alone")
            for guess in guesses(vault, canonical):
                tried += 1
                if opens(lambda: record.unlock(vault.id, handle, guess)):
                    sys.exit("a record's outer lock opened without the root key")
        for row_key, row in tables["keys"].items():
            key_id, version = row_key[:-5], number(row_key[-4:])
            for guess in guesses(vault, canonical):
                tried += 1
                vault.meta_key = meta_key(guess, vault.id)
                if opens(lambda: vault.checked("keys", row_key)):
                    sys.exit("a row of keys verified without the root key")
                if opens(lambda: unwrap(guess, vault.id, key_id, version, row[18:-MAC])):
                    sys.exit("a key was unwrapped without the root key")
    show(opened=0, tried=tried)


def guesses(vault, canonical):
    return [bytes(32), os.urandom(32), canonical.ljust(32, b"\0"), vault.id * 2, hashlib.sha256(canonical).digest()]


def command_without_token(options):
    """With every key of the vault but not the token: the outer lock opens, the inner one does not."""
    handle = bytes.fromhex(options.handle)
    with database(options.vault / "data") as tables:
        vault = Vault(tables, read_root_key(options.root_key or options.vault / "root.key"))
        vault.check_meta()
        scope = vault.scope_id(options.scope)
        record = vault.record(handle)
        inner = record.unlock(vault.id, handle, vault.data_key(scope, record.data_key_version))
        keys = {name: vault.key(name, 1) for name in (b"index", b"request", b"data/%d" % scope)}
        prefix = options.prefix.encode()
        # What a thief could put in the token's place: nothing, the right prefix with random bytes, the handle's tail,
        # every key of the vault.
        tried = [b"", prefix + bytes(16), prefix + os.urandom(16), prefix + handle[4:], handle, prefix + vault.id]
        tried += [vault.root, vault.meta_key, *keys.values(), *(prefix + key[:16] for key in keys.values())]
        for canonical in tried:
            key = inner_key(canonical, vault.id, scope, handle, record.created, record.inner_salt)
            if opens(lambda: unseal(key, b"", inner)):
                sys.exit("a record opened without its token")
        for key in (vault.root, vault.meta_key, *keys.values()):
            if opens(lambda: unseal(key, b"", inner)):
                sys.exit("the inner lock opened with a key of the vault")
    show(opened=0, outer_lock_opened=1, tried=len(tried))


def read_token(name):
    text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    return text.rstrip("\n")


# === every row ===


def command_rows(options):
    with database(options.vault / "data") as tables:
        vault = Vault(tables, read_root_key(options.root_key or options.vault / "root.key"))
        counts = RowCheck(vault, options.vault).run()
    show(**counts)


def expiry_key(expires, handle):
    return u32(expires // 3600000) + handle


def handles_of_expiry(key, rest):
    return [key[4:], *(rest[at : at + 20] for at in range(0, len(rest), 20))]


def payload_of(*fields):
    return hashlib.sha256(b"".join(u64(len(field)) + field for field in fields)).digest()


ANSWER_HEADER = 1 + 8 + 16


def open_answer(request_key, request_id, vault, name, payload, row):
    header = row[:ANSWER_HEADER]
    if header[:1] != b"\x01":
        raise Refused("answer format")
    return unseal(answer_key(request_key, request_id, vault, name, payload, header[9:]), header, row[ANSWER_HEADER:])


TOKENIZE = 1


def index_key_of(kind, subject):
    if kind == "handle":
        return b"h" + subject
    if kind == "issue":
        return b"i" + subject[:4]
    return {"caller": b"c", "scope": b"s"}[kind] + hashlib.sha256(subject).digest()[:16]


def index_of(event):
    """The rows that lead to an event: key without the sequence, and content."""
    _time, action, caller, scope, handles = event
    rows = {index_key_of(kind, subject): b"" for kind, subject in [("caller", caller), ("scope", scope)] if subject}
    for handle in sorted(set(handles) - {b""}):
        if action == TOKENIZE and handle[:4] != bytes(4):
            key = index_key_of("issue", handle)
            rows[key] = rows.get(key, b"") + handle[4:6]
        else:
            rows[index_key_of("handle", handle)] = b""
    return rows


class RowCheck:
    """Goes through every table and takes every row apart."""

    def __init__(self, vault, directory):
        self.vault, self.tables, self.directory = vault, vault.tables, directory

    def run(self):
        counts = {}
        for name in [*TABLES, "default"]:
            rows = list(self.tables[name].items())
            getattr(self, name)(rows)
            counts[name] = len(rows)
        return counts

    def expect(self, holds, what):
        if not holds:
            raise Refused(what)

    def meta(self, rows):
        # Nothing is dropped from a log that is younger than what it keeps.
        self.expect([key for key, _ in rows] == [b"format", b"log", b"log_keys", b"vault"], "other rows of meta")
        self.vault.check_meta()
        self.log_id = self.vault.behind_version(self.vault.checked("meta", b"log")).decode()
        keys = self.vault.behind_version(self.vault.checked("meta", b"log_keys")).decode().splitlines()
        self.expect(keys and keys[0].startswith(f"0 {self.log_id}+"), "the log's keys")

    def scopes(self, rows):
        self.scope_ids = {key.decode(): self.vault.scope_id(key.decode()) for key, _ in rows}
        ids = sorted(self.scope_ids.values())
        self.expect(ids == list(range(1, len(ids) + 1)), "scope ids are not 1, 2, 3 …")

    def keys(self, rows):
        for key, row in rows:
            self.expect(key[-5] == 0 and len(row) == KEY_ROW + MAC, "a row of keys")
            self.expect(len(self.vault.key(key[:-5], number(key[-4:]))) == 32, "a key's length")
            self.expect(number(row[2:10]) > 0 and number(row[10:18]) == 0, "a key's times")
        ids = {key[:-5] for key, _ in rows}
        self.expect({b"index", b"request", b"state"} <= ids, "index, request or state key")
        others = ids - {b"index", b"request", b"state"}
        self.expect(others <= {b"data/%d" % scope for scope in self.scope_ids_now().values()}, "a key of no scope")

    def scope_ids_now(self):
        return {key.decode(): self.vault.scope_id(key.decode()) for key, _ in self.tables["scopes"].items()}

    def tokens(self, rows):
        scopes = set(self.scope_ids_now().values())
        # What the configuration says of formats is no stored state: a scope's handles have their second, or all have 0.
        seconds = {}
        self.buckets = set()
        self.sums = {}
        state_key = self.vault.key(b"state", 1)
        for handle, row in rows:
            record = Record(row)
            self.expect(len(handle) == 20 and record.scope in scopes, "a record's handle or scope")
            self.expect(record.index_key_version == 1, "index key version")
            record.unlock(self.vault.id, handle, self.vault.data_key(record.scope, record.data_key_version))
            created_second = record.created // 1000 - 1577836800
            has_second = seconds.setdefault(record.scope, number(handle[:4]) != 0)
            expected = created_second if has_second else 0
            self.expect(number(handle[:4]) == expected, "a handle does not begin with its second")
            self.buckets.add(expiry_key(record.expires, handle))
            count, total = self.sums.get(group_of(record.scope, record.created), (0, 0))
            total = (total + element(state_key, handle, row)) % MODULUS
            self.sums[group_of(record.scope, record.created)] = count + 1, total

    def expiry(self, rows):
        named = [key[:4] + handle for key, row in rows if len(key) == 24 for handle in handles_of_expiry(key, row)]
        self.expect(len(named) == len(set(named)), "a token stands twice in an hour")
        renewed = {key[:24] for key, _ in rows if len(key) == 28}
        self.expect(self.buckets <= set(named) | renewed, "a token stands in no hour")
        moved = {key[4:] for key in renewed}
        self.expect({key[4:] for key in set(named) - self.buckets} <= moved, "an hour names what is no token in it")
        self.requests_until = {key for key, row in rows if len(key) == 36 and row == b""}
        self.expect(all(len(key) in (24, 28, 36) for key, _ in rows), "a row of expiry")

    def requests(self, rows):
        for name, row in rows:
            self.expect(row[:1] == b"\x01" and len(name) == 32 and len(row) > ANSWER_HEADER + TAG, "a remembered request")
        until = {expiry_key(number(row[1:9]), name) for name, row in rows}
        self.expect(until == self.requests_until, "expiry and requests do not fit")

    def state(self, rows):
        state_key = self.vault.key(b"state", 1)
        self.expect(all(len(row) == 1 + MASKED and row[:1] == b"\x01" for _, row in rows), "a row of state")
        stored = {group: unmask_sum(state_key, group, row[1:]) for group, row in rows}
        self.expect(stored == self.sums, "the sums are not those of the records")

    def head(self):
        """The row that each commit writes; what a checkpoint of the same size says of the records."""
        state_key = self.vault.key(b"state", 1)
        content = self.vault.checked("tree", b"head")
        self.expect(content[:1] == b"\x02" and content[1:9] == u64(len(self.leaves)), "the head's format or size")
        self.expect(content[9:41] == root_of(self.leaves), "the head's root")
        count = sum(count for count, _ in self.sums.values())
        total = sum(total for _, total in self.sums.values()) % MODULUS
        self.expect(0 < number(content[41:49]) < self.last_millis + MINUTE, "the head's time mark")
        self.expect(unmask_sum(state_key, b"", content[49:]) == (count, total), "the head is of other records")
        return state_line(state_key, len(self.leaves), count, total)

    def fingerprints(self, rows):
        self.expect(rows == [], "rows in a table that has none in this version")

    default = fingerprints

    def events(self, rows):
        self.leaves, self.index, last = [], {}, 0
        for sequence, (key, row) in enumerate(rows):
            self.expect(key == u64(sequence), "a gap between events")
            self.leaves.append(hashlib.sha256(b"\0" + row).digest())
            event = read_event(row)
            self.expect(event[0] >= last, "the log's time decreases")
            last = event[0]
            self.index |= {subject + key: content for subject, content in index_of(event).items()}
        self.last_millis = last

    def event_index(self, rows):
        self.expect(dict(rows) == self.index, "event_index and events do not fit")

    def tree(self, rows):
        expected = {}
        level, nodes = 0, self.leaves
        while len(nodes) >= 256:
            tiles = [nodes[start : start + 256] for start in range(0, len(nodes) // 256 * 256, 256)]
            for index, tile in enumerate(tiles):
                expected[tile_path(level, index).encode()] = b"".join(tile)
            level, nodes = level + 1, [root_of(tile) for tile in tiles]
        stored = dict(rows)
        note = stored.pop(b"checkpoint", None)
        stored.pop(b"head", None)
        state = self.head()
        self.expect(stored == expected, "tiles and events do not fit")
        verifier = (self.directory / "log.vkey").read_text(encoding="utf-8").rstrip("\n")
        outside = (self.directory / "checkpoints" / "checkpoint").read_text(encoding="utf-8")
        self.expect(state in outside.split("\n"), "the last checkpoint does not say which records there are")
        notes = [outside] if note is None else [outside, note.decode()]
        for text in notes:
            origin, size, root = read_checkpoint(text, verifier)
            self.expect(size <= len(self.leaves), "a checkpoint speaks of events that are not there")
            self.expect(root == root_of(self.leaves[:size]), "a checkpoint's root is not the events'")
            self.expect(text != outside or size == len(self.leaves), "the last checkpoint is not of the whole log")
            self.origin = origin
        log_id = self.vault.behind_version(self.vault.checked("meta", b"log")).decode()
        self.expect(log_id == self.origin, "the log's id is not the checkpoint's origin")


def root_of(hashes):
    """The tree over leaf hashes."""
    peaks = []
    for node in hashes:
        height = 0
        while peaks and peaks[-1][1] == height:
            node, height = hashlib.sha256(b"\x01" + peaks.pop()[0] + node).digest(), height + 1
        peaks.append((node, height))
    if not peaks:
        return hashlib.sha256().digest()
    node = peaks.pop()[0]
    while peaks:
        node = hashlib.sha256(b"\x01" + peaks.pop()[0] + node).digest()
    return node


def tile_path(level, index):
    groups = [f"{index % 1000:03}"]
    while index := index // 1000:
        groups.insert(0, f"x{index % 1000:03}")
    return f"tile/{level}/{'/'.join(groups)}"


MESSAGES = {3: {1: "varint", 2: "varint"}, 24: {1: "varint", 2: "varint"}, 9: dict.fromkeys((1, 2, 3, 4), "bytes")}
VARINTS = {4, 5, 12, 13, 20, 23}
REPEATED = {11, 18}


def read_event(row):
    """Time in milliseconds, action, caller, scope and handles of an event in its one form."""
    if row[:1] != b"\x01":
        raise Refused("event format")
    fields = {}
    last = 2
    for field, value in protobuf(row[1:]):
        varint = isinstance(value, int)
        known = 3 <= field <= 26 and varint == (field in VARINTS)
        if not known or field < last or (field == last and field not in REPEATED):
            raise Refused("an event's fields are out of order, repeated or unknown")
        if field not in REPEATED and field not in MESSAGES and not value:
            raise Refused("an event has a default written out")
        if field in MESSAGES:
            inner = list(protobuf(value))
            if [name for name, _ in inner] != sorted({name for name, _ in inner}) or not all(
                name in MESSAGES[field] and content for name, content in inner
            ):
                raise Refused("an event's message is not in its one form")
            value = dict(inner)
        last = field
        fields.setdefault(field, []).append(value)
    if 3 not in fields or len(fields.get(26, [b""])[0]) != 16:
        raise Refused("an event without time or salt")
    if any(len(handle) not in (0, 20) for handle in fields.get(11, [])):
        raise Refused("an event's handles")
    time = fields[3][0]
    if time.get(2, 0) % 1_000_000:
        raise Refused("an event's time is not in whole milliseconds")
    millis = time.get(1, 0) * 1000 + time.get(2, 0) // 1_000_000
    action = fields.get(4, [0])[0]
    return millis, action, fields.get(7, [b""])[0], fields.get(10, [b""])[0], fields.get(11, [])


def protobuf(data):
    """Field numbers and values: numbers for varints, bytes for what has a length. Nothing else occurs."""
    place = 0

    def varint():
        nonlocal place
        value = shift = 0
        while True:
            byte = data[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                if byte == 0 and shift > 7:
                    raise Refused("a varint is longer than need be")
                return value

    while place < len(data):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
        elif key & 7 == 2:
            length = varint()
            place += length
            if place > len(data):
                raise Refused("an event is cut short")
            yield key >> 3, data[place - length : place]
        else:
            raise Refused("an event's wire types")


def verifier_of(name, seed):
    """The public key of a log as `log.vkey` has it, from the seed of RFC 8032."""
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    key_id = hashlib.sha256(name.encode() + b"\n\x01" + public).digest()[:4]
    return "+".join([name, key_id.hex(), base64.b64encode(b"\x01" + public).decode()])


def read_checkpoint(text, verifier):
    """Origin, size and root of a checkpoint whose signature by `verifier` holds."""
    name, key_id, key = verifier.split("+", 2)
    key = base64.b64decode(key, validate=True)
    expected_id = hashlib.sha256(name.encode() + b"\n\x01" + key[1:]).digest()[:4]
    if key[0] != 1 or len(key) != 33 or key_id != expected_id.hex():
        raise Refused("log.vkey")
    signed, _, signatures = text.rpartition("\n\n")
    signed += "\n"
    good = 0
    for line in signatures.rstrip("\n").split("\n"):
        dash, signer, blob = line.split(" ")
        blob = base64.b64decode(blob, validate=True)
        if dash != "—" or (signer, blob[:4]) != (name, expected_id):
            continue
        try:
            Ed25519PublicKey.from_public_bytes(key[1:]).verify(blob[4:], signed.encode())
        except InvalidSignature:
            raise Refused("a checkpoint's signature") from None
        good += 1
    if not good:
        raise Refused("a checkpoint without the log's signature")
    origin, size, root = parse_checkpoint(text)
    if origin != name:
        raise Refused("a checkpoint of another log")
    return origin, size, root


def parse_checkpoint(text):
    origin, size, root = text.split("\n")[:3]
    return origin, int(size), base64.b64decode(root, validate=True)


# === frozen vectors ===


class Vectors:
    """This program against the frozen vectors, value by value."""

    def __init__(self, directory):
        self.directory, self.compared = directory, 0

    def same(self, what, ours, theirs):
        theirs = bytes.fromhex(theirs) if isinstance(ours, bytes) else theirs
        if ours != theirs:
            raise Refused(f"{what} differs from the vector")
        self.compared += 1

    def load(self, name):
        return json.loads((self.directory / name).read_text(encoding="utf-8"))

    def run(self):
        self.tokens(self.load("token_opaque_v1.json"))
        self.uuids(self.load("token_uuid_v1.json"))
        self.wraps(self.load("wrap_v1.json"))
        self.records(self.load("record_v1.json"))
        self.rows(self.load("rows_v1.json"))
        self.sums(
            self.load("state_v1.json"), self.load("head_v2.json"), self.load("record_v1.json"), self.load("rows_v1.json")
        )
        self.backup((self.directory / "backup_manifest_v1.json").read_text(encoding="utf-8"))
        return self.compared

    def backup(self, text):
        manifest = json.loads(text)
        self.same("manifest's spelling", json.dumps(manifest, indent=2) + "\n", text)
        unsigned = json.dumps({**manifest, "mac": ""}, indent=2) + "\n"
        meta = meta_key(b"\x01" * 32, bytes.fromhex(manifest["vault"]))
        digest = hashlib.sha256(unsigned.encode()).digest()
        self.same("manifest's mac", row_mac(meta, "backup", b"manifest", digest), manifest["mac"])

    def tokens(self, file):
        index_key = bytes.fromhex(file["index_key"])
        for case in file["tokens"]:
            random, second = bytes.fromhex(case["random"]), u32(case["second"])
            canonical = canonical_of(case["prefix"], random)
            whole = mac(index_key, handle_input(case["scope"], canonical))
            masked = xor(second, whole[16:20])
            body = base62(number(masked + random), BODY_DIGITS)
            check = checksum(case["prefix"], body)
            self.same("canonical", canonical, case["canonical"])
            self.same("hmac_input", handle_input(case["scope"], canonical), case["hmac_input"])
            self.same("hmac", whole, case["hmac"])
            self.same("tail", whole[:16], case["tail"])
            self.same("mask", whole[16:20], case["mask"])
            self.same("masked", masked, case["masked"])
            self.same("body_bytes", masked + random, case["body_bytes"])
            self.same("body", body, case["body"])
            self.same("crc32", u32(zlib.crc32(f"{case['prefix']}_{body}".encode())), case["crc32"])
            self.same("checksum", check, case["checksum"])
            self.same("token", f"{case['prefix']}_{body}{check}", case["token"])
            self.same("handle", handle_of(index_key, case["scope"], canonical, masked), case["handle"])
            self.same("parsed", list(parse_token(case["token"])), [case["prefix"], masked, random])
        for case in file["malformed"]:
            try:
                parse_token(case["token"])
            except Refused as refused:
                self.same("malformed", str(refused), case["reason"])
            else:
                raise Refused("a malformed token was read")

    def uuids(self, file):
        index_key = bytes.fromhex(file["index_key"])
        for case in file["tokens"]:
            canonical = uuid_of(bytes.fromhex(case["random"]))
            whole = mac(index_key, handle_input(case["scope"], canonical))
            self.same("canonical", canonical, case["canonical"])
            self.same("token", uuid_text(canonical), case["token"])
            self.same("hmac_input", handle_input(case["scope"], canonical), case["hmac_input"])
            self.same("hmac", whole, case["hmac"])
            self.same("tail", whole[:16], case["tail"])
            self.same("handle", uuid_handle(index_key, case["scope"], canonical), case["handle"])
            for text in case["read"]:
                self.same("parsed", parse_uuid(text), case["canonical"])
        for case in file["malformed"]:
            try:
                parse_uuid(case["token"])
            except Refused as refused:
                self.same("malformed", str(refused), case["reason"])
            else:
                raise Refused("a malformed token was read")

    def wraps(self, file):
        root, vault = bytes.fromhex(file["root_key"]), bytes.fromhex(file["vault"])
        self.same("root_prk", mac(bytes(32), root), file["root_prk"])
        for case in file["wrapped_keys"]:
            key_id, salt, key = case["key_id"].encode(), bytes.fromhex(case["salt"]), bytes.fromhex(case["key"])
            info = lp(b"cloakroom/v1/wrap", vault, key_id, u32(case["version"]), salt)
            wrapped = wrap(root, vault, key_id, case["version"], salt, key)
            self.same("info", info, case["info"])
            self.same("wrapping_key", wrapping_key(root, vault, key_id, case["version"], salt), case["wrapping_key"])
            self.same("associated", b"\x01" + salt, case["associated"])
            self.same("ciphertext", wrapped[33:65], case["ciphertext"])
            self.same("tag", wrapped[65:], case["tag"])
            self.same("wrapped", wrapped, case["wrapped"])
            opened = unwrap(root, vault, key_id, case["version"], bytes.fromhex(case["wrapped"]))
            self.same("unwrapped", opened, case["key"])
            if opens(lambda: unwrap(bytes(32), vault, key_id, case["version"], wrapped)):
                raise Refused("a key was unwrapped with another root key")
        self.same("meta_info", lp(b"cloakroom/v1/meta", vault), file["meta_info"])
        self.same("meta_key", meta_key(root, vault), file["meta_key"])
        for case in file["macs"]:
            row_key, content = bytes.fromhex(case["row_key"]), bytes.fromhex(case["content"])
            self.same("mac_input", lp(case["table"].encode(), row_key, content), case["mac_input"])
            self.same("mac", row_mac(meta_key(root, vault), case["table"], row_key, content), case["mac"])
        request = file["request"]
        caller, request_id = request["caller_text"].encode(), bytes.fromhex(request["request_id"])
        self.same("hmac_input", lp(b"cloakroom/v1/request", caller, request_id), request["hmac_input"])
        self.same("hmac", request_name(bytes.fromhex(file["request_key"]), caller, request_id), request["hmac"])

    def records(self, file):
        vault = bytes.fromhex(file["vault"])
        for case in file["records"]:
            handle, canonical, data_key, value, inner_salt, outer_salt = (
                bytes.fromhex(case[name])
                for name in ("handle", "canonical", "data_key", "value", "inner_salt", "outer_salt")
            )
            self.same("canonical", canonical_of(*parse_token(case["token"])[::2]), case["canonical"])
            record = Record(bytes.fromhex(case["row"]))
            self.same("state", record.state, case["state"])
            self.same("scope", record.scope, case["scope"])
            self.same("index key", record.index_key_version, case["index_key_version"])
            self.same("data key", record.data_key_version, case["data_key_version"])
            self.same("version", record.version, case["record_version"])
            self.same("created", record.created, case["created_ms"])
            self.same("changed", record.changed, case["changed_ms"])
            self.same("expires", record.expires, case["expires_ms"])
            self.same("uses_left", record.uses_left, case["uses_left"])
            self.same("subject", record.subject, case["subject"])
            self.same("fingerprint", record.fingerprint, case["fingerprint"])
            self.same("header", record.header, case["header"])
            self.same("front", record.header + inner_salt + outer_salt, case["associated"])
            inner = inner_key(canonical, vault, record.scope, handle, record.created, inner_salt)
            outer = outer_key(data_key, vault, record.scope, handle, outer_salt)
            place = lp(vault, u32(record.scope), handle)
            self.same(
                "inner_info",
                lp(b"cloakroom/v1/inner") + place + lp(u64(record.created), inner_salt),
                case["inner_info"],
            )
            self.same("outer_info", lp(b"cloakroom/v1/outer") + place + lp(outer_salt), case["outer_info"])
            self.same("inner_prk", mac(bytes(32), canonical), case["inner_prk"])
            self.same("inner_key", inner, case["inner_key"])
            self.same("outer_prk", mac(bytes(32), data_key), case["outer_prk"])
            self.same("outer_key", outer, case["outer_key"])
            self.same("padded", pad(value), case["padded"])
            sealed = seal(inner, b"", pad(value))
            self.same("inner_sealed", sealed, case["inner_sealed"])
            self.same("outer_sealed", seal(outer, record.front, sealed), case["outer_sealed"])
            self.same("row", record.front + seal(outer, record.front, sealed), case["row"])
            self.same("value", record.open(vault, handle, data_key, canonical), case["value"])
            # Each flipped bit of the row, and each other secret, keeps it shut.
            row = bytes.fromhex(case["row"])
            for place in range(len(row)):
                bad = bytearray(row)
                bad[place] ^= 1 << (place % 8)
                if opens(lambda: Record(bytes(bad)).open(vault, handle, data_key, canonical)):
                    raise Refused("a changed record opened")
            for wrong in (
                lambda: record.open(vault, handle, data_key, canonical[:-1] + bytes([canonical[-1] ^ 1])),
                lambda: record.open(vault, handle, bytes(32), canonical),
                lambda: record.open(vault, handle[:-1] + bytes([handle[-1] ^ 1]), data_key, canonical),
                lambda: record.open(bytes(16), handle, data_key, canonical),
            ):
                if opens(wrong):
                    raise Refused("a record opened with another secret or in another place")

    def rows(self, file):
        root, vault = bytes.fromhex(file["root_key"]), bytes.fromhex(file["vault_id"])
        meta, created = meta_key(root, vault), u64(file["created_millis"])

        def row(table, case, content):
            row_key = bytes.fromhex(case["row_key"])
            self.same(f"row of {table}", content + row_mac(meta, table, row_key, content), case["row"])

        log_id = file["log_id"].encode()
        verifier = verifier_of(file["log_id"], bytes.fromhex(file["log_seed"]))
        contents = {
            "format": u32(2),
            "vault": b"\x01" + vault,
            "log": b"\x01" + log_id,
            "log_keys": b"\x01" + f"0 {verifier}\n".encode(),
            "time": b"\x01" + created,
        }
        for case in file["meta"]:
            self.same("name in meta", case["name"].encode(), case["row_key"])
            row("meta", case, contents[case["name"]])
        for case in file["keys"]:
            key_id, version = case["id"].encode(), case["version"]
            wrapped = wrap(root, vault, key_id, version, bytes.fromhex(case["salt"]), bytes.fromhex(case["key"]))
            self.same("key of a row of keys", key_id + b"\0" + u32(version), case["row_key"])
            row("keys", case, b"\x01\x01" + created + u64(0) + wrapped)
        for case in file["scopes"]:
            self.same("key of a row of scopes", case["path"].encode(), case["row_key"])
            row("scopes", case, b"\x01" + u32(case["id"]))
        for case in file["expiry"]:
            first, *rest = map(bytes.fromhex, case["handles"])
            self.same("key of a row of expiry", expiry_key(case["expires_millis"], first), case["row_key"])
            self.same("row of expiry", b"".join(rest), case["row"])
        for case in file["requests"]:
            name, request_id = bytes.fromhex(case["row_key"]), bytes.fromhex(case["request_id"])
            payload = payload_of(*map(bytes.fromhex, case["payload_fields"]))
            self.same("payload", payload.hex(), case["payload"])
            request_key = bytes.fromhex(case["request_key"])
            self.same("name", request_name(request_key, case["caller"].encode(), request_id), case["row_key"])
            stored = bytes.fromhex(case["row"])
            self.same("answer", open_answer(request_key, request_id, vault, name, payload, stored), case["answer"])
            self.same("until", number(stored[1:9]), case["until_millis"])
            self.same("key of its expiry", expiry_key(case["until_millis"], name), case["expiry_row_key"])
        for case in file["event_index"]:
            is_handle = case["kind"] in ("handle", "issue")
            subject = bytes.fromhex(case["subject"]) if is_handle else case["subject"].encode()
            key = index_key_of(case["kind"], subject) + u64(case["sequence"])
            self.same("key of a row of event_index", key, case["row_key"])
        leaves, index = [], {}
        for sequence, case in enumerate(file["log"]["rows"]):
            row_key, event = bytes.fromhex(case["row_key"]), bytes.fromhex(case["row"])
            self.same("key of an event", u64(sequence), case["row_key"])
            leaves.append(hashlib.sha256(b"\0" + event).digest())
            index |= {subject + row_key: content for subject, content in index_of(read_event(event)).items()}
        stored = {row["row_key"]: row["row"] for row in file["log"]["event_index"]}
        self.same("the events' index", {key.hex(): content.hex() for key, content in index.items()}, stored)
        for name, size in (("checkpoint_after_one", 1), ("checkpoint_after_two", 2)):
            origin, its_size, its_root = read_checkpoint(file["log"][name], verifier)
            line = state_line(bytes.fromhex(file["log"]["state_key"]), size, 0, 0)
            self.same("state line", line in file["log"][name].split("\n"), True)
            self.same("checkpoint", [origin, its_size, its_root], [file["log_id"], size, root_of(leaves[:size])])


    def sums(self, file, newer, records, rows):
        key = bytes.fromhex(file["state_key"])
        groups = {}
        for case in file["records"]:
            handle, row = bytes.fromhex(case["handle"]), bytes.fromhex(records["records"][case["record"]]["row"])
            record = Record(row)
            self.same("outer salt", record.outer_salt, case["outer_salt"])
            self.same("outer tag", row[-TAG:], case["outer_tag"])
            self.same("element", element(key, handle, row).to_bytes(32, "big"), case["element"])
            group = group_of(record.scope, record.created)
            self.same("group", group, (u32(case["scope"]) + u32(case["day"])).hex())
            groups.setdefault(group, []).append(element(key, handle, row))
        self.same("groups", sorted(group.hex() for group in groups), sorted(case["row_key"] for case in file["sums"]))
        for case in file["sums"]:
            group, random = bytes.fromhex(case["row_key"]), bytes.fromhex(case["random"])
            count, total = len(groups[group]), sum(groups[group]) % MODULUS
            self.same("number of records", count, case["records"])
            self.same("sum", total.to_bytes(32, "big"), case["sum"])
            self.same("row of state", b"\x01" + mask_sum(key, group, random, count, total), case["row"])
            self.same("unmasked", unmask_sum(key, group, bytes.fromhex(case["row"])[1:]), (count, total))
        head, whole = file["head"], [one for group in groups.values() for one in group]
        count, total = len(whole), sum(whole) % MODULUS
        leaves = [hashlib.sha256(b"\0" + bytes.fromhex(row["row"])).digest() for row in rows["log"]["rows"]]
        meta = meta_key(bytes.fromhex(rows["root_key"]), bytes.fromhex(rows["vault_id"]))
        content = b"\x01" + u64(2) + root_of(leaves) + mask_sum(key, b"", bytes.fromhex(head["random"]), count, total)
        self.same("head", content + row_mac(meta, "tree", b"head", content), head["row"])
        # Since storage format 3 the time mark stands in it.
        random, mark = bytes.fromhex(newer["random"]), u64(newer["time_mark_millis"])
        content = b"\x02" + u64(2) + root_of(leaves) + mark + mask_sum(key, b"", random, count, total)
        self.same("head with a mark", content + row_mac(meta, "tree", b"head", content), newer["row"])
        content = u32(3)
        self.same("format", content + row_mac(meta, "meta", b"format", content), newer["format_row"])
        self.same("state line", state_line(key, 2, count, total), head["line"])


def command_vectors(options):
    show(compared=Vectors(options.directory).run())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    def command(name, run, *arguments):
        sub = commands.add_parser(name)
        sub.set_defaults(run=run)
        for argument, settings in arguments:
            sub.add_argument(argument, **settings)

    vault = ("vault", {"type": Path})
    root_key = ("--root-key", {"type": Path, "help": "instead of the vault's root.key"})
    scope = ("--scope", {"required": True})
    token = ("--token", {"required": True, "metavar": "FILE", "help": "holds the token; - for standard input"})
    value_to = ("--value-to", {"metavar": "FILE", "help": "a new file for the value"})
    handle = ("--handle", {"required": True})
    prefix = ("--prefix", {"required": True, "help": "the scope's, which is no secret"})
    command("vectors", command_vectors, ("directory", {"type": Path}))
    command("open", command_open, vault, scope, token, root_key, value_to)
    command("without-root-key", command_without_root_key, vault, scope, token)
    command("without-token", command_without_token, vault, scope, handle, prefix, root_key)
    command("rows", command_rows, vault, root_key)
    options = parser.parse_args()
    try:
        options.run(options)
    except Refused as refused:
        sys.exit(f"refused: {refused}")


if __name__ == "__main__":
    main()
