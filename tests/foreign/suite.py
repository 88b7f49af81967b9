"""All of it: the frozen vectors, the foreign client, and the records that a stopped vault leaves behind.

suite.py BINARY DIRECTORY      a line for each check, and `N passed, N failed` at the end
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import report
import vault as vaults
import witness
from vault import PATIENCE, ROOT, Vault

HERE = Path(__file__).resolve().parent
OPENER = HERE / "open_record.py"


class Checks:
    """What was checked and what came of it."""

    def __init__(self):
        self.passed = self.failed = 0

    def check(self, what, holds, why=""):
        if holds:
            self.passed += 1
        else:
            self.failed += 1
        print(f"{'ok  ' if holds else 'FAIL'}  {what}" + (f": {why}" if why and not holds else ""), flush=True)

    def section(self, name, run, *arguments):
        """An exception fails the suite but does not keep the other sections from running."""
        print(f"== {name}", flush=True)
        try:
            return run(*arguments)
        except Exception:
            self.check(f"{name} went through", False, traceback.format_exc())
            return None


class Opener:
    """The program that opens records, as a process of its own that shares nothing with this one."""

    def __init__(self, directory):
        self.token_file = directory / "token"

    def __call__(self, command, vault, *arguments, token=None):
        if token is not None:
            self.token_file.write_text(f"{token}\n", encoding="utf-8")
            arguments = (*arguments, "--token", str(self.token_file))
        done = subprocess.run(
            [sys.executable, str(OPENER), command, str(vault), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        return done.returncode, done.stdout, done.stderr


def facts(done):
    status, output, error = done
    return json.loads(output) if status == 0 else {"error": error.strip()[-200:]}


# === stored records ===

VALUES = {
    "a card number": b"4111111111111111",
    "one byte": b"\x00",
    "twelve bytes, which fill a block": b"123456789012",
    "thirteen bytes, which begin another": b"1234567890123",
    "252 bytes, the last before Padmé": b"x" * 252,
    "253 bytes, the first after": b"y" * 253,
    "64 KiB": b"z" * 65536,
    "not text": bytes(range(256)),
}


def store_records(checks, vault, process):
    """Tokens of known values and their handles."""
    from client import Client

    client = Client(checks, vault, process)
    gateway, payments, operator = client.new("gateway"), client.new("payments"), client.new("operator")
    items = [client.item(value) for value in VALUES.values()]
    items += [client.item(b"used once of three", max_uses=3), client.item(b"revoked")]
    issued = [result.issued for result in client.tokenize(gateway, "pan", *items).results]
    records = dict(zip([*VALUES, "used", "revoked"], issued, strict=True))
    client.detokenize(payments, "pan", records["used"].token)
    client.revoke(operator, "pan", records["revoked"].token)
    # A start reads the events since the last full tile of 256 again: the last ones shall be among those.
    while not 16 <= client.tokenize(gateway, "pan", b"1").receipt.sequence % 256 <= 128:
        pass
    records["ssn"] = client.tokenize(gateway, "ssn", b"123-45-6789").results[0].issued
    records["uuid"] = client.tokenize(client.new("tester"), "foreign/uuid", b"under a UUID").results[0].issued
    return {name: (record.token, record.handle) for name, record in records.items()}


def foreign_record(checks, vault, records, opener, directory):
    """With docs/formats.md, the root key and the token, and with nothing else."""
    for name, value in VALUES.items():
        token, handle = records[name]
        found = facts(opener("open", vault.path, "--scope", "pan", token=token))
        expected = {
            "sha256": hashlib.sha256(value).hexdigest(),
            "length": len(value),
            "handle": handle,
            "state": "active",
        }
        checks.check(f"a stored record opens: {name}", expected.items() <= found.items(), f"{found} is not {expected}")
    used = facts(opener("open", vault.path, "--scope", "pan", token=records["used"][0]))
    checks.check(
        "a stored record opens: used once of three",
        (used.get("uses_left"), used.get("record_version"), used.get("length")) == (2, 2, 18),
        str(used),
    )
    revoked = facts(opener("open", vault.path, "--scope", "pan", token=records["revoked"][0]))
    checks.check(
        "a stored record opens: revoked",
        (revoked.get("state"), revoked.get("record_version")) == ("revoked", 2),
        str(revoked),
    )
    uuid, handle = records["uuid"]
    expected = {"sha256": hashlib.sha256(b"under a UUID").hexdigest(), "handle": handle, "state": "active"}
    for text in (uuid, uuid.upper()):
        found = facts(opener("open", vault.path, "--scope", "foreign/uuid", token=text))
        checks.check("a stored record opens: its token a UUID", expected.items() <= found.items(), str(found))
    file = directory / "value"
    opener("open", vault.path, "--scope", "pan", "--value-to", file, token=records["not text"][0])
    checks.check("a stored record opens: into a file", file.exists() and file.read_bytes() == VALUES["not text"])

    token, handle = records["a card number"]
    other = directory / "other-root.key"
    other.write_text(f"cloakroom-root-key-v1:{os.urandom(32).hex()}\n", encoding="ascii")
    from client import foreign_token

    for what, scope, its_token, arguments in [
        ("with another root key", "pan", token, ("--root-key", other)),
        ("with another token of the scope", "pan", foreign_token("pan"), ()),
        ("with a mistyped token", "pan", token[:-1] + ("0" if token[-1] != "0" else "1"), ()),
        ("with the token under another scope", "ssn", token, ()),
    ]:
        status, output, error = opener("open", vault.path, "--scope", scope, *arguments, token=its_token)
        shut = status != 0 and output == "" and error.startswith("refused: ")
        checks.check(f"a stored record stays shut: {what}", shut, error[-300:])
    found = facts(opener("without-root-key", vault.path, "--scope", "pan", token=token))
    checks.check("nothing opens without the root key", found.get("opened") == 0 and found["tried"] > 100, str(found))
    found = facts(opener("without-token", vault.path, "--scope", "pan", "--handle", handle, "--prefix", "pan"))
    wanted = (found.get("opened"), found.get("outer_lock_opened")) == (0, 1)
    checks.check("nothing opens without the token", wanted, str(found))
    found = facts(opener("rows", vault.path))
    print(f"      rows: {found}")
    checks.check("every stored row is what docs/formats.md says", found.get("tokens", 0) > 0, str(found))


# === damage ===


def edit(vault, table, change):
    """Changes a table of a stopped vault behind its back."""
    from open_record import TABLES
    from rocksdict import DBCompressionType, Options, Rdict

    # What is flushed here has to be readable there: without compression.
    settings = {name: Options(raw_mode=True) for name in [*TABLES, "default"]}
    for options in settings.values():
        options.set_compression_type(DBCompressionType.none())
    rows = Rdict(str(vault.path / "data"), settings.pop("default"), settings)
    try:
        change(rows.get_column_family(table))
    finally:
        rows.close()


def flipped(row, place):
    changed = bytearray(row)
    changed[place] ^= 1
    return bytes(changed)


def damage_records(vault, records):
    """What becomes of each record, and what an inspector may see of it."""
    handle = {name: bytes.fromhex(handle) for name, (_, handle) in records.items()}

    def change(rows):
        def put(name, row):
            rows[handle[name]] = row

        old = {name: rows[key] for name, key in handle.items()}
        put("one byte", flipped(old["one byte"], -1))
        put("twelve bytes, which fill a block", flipped(old["twelve bytes, which fill a block"], 35 + 7))
        put("252 bytes, the last before Padmé", old["253 bytes, the first after"])
        put("253 bytes, the first after", old["253 bytes, the first after"][:-16])
        put("64 KiB", b"\x02" + old["64 KiB"][1:])
        put("not text", b"")
        put("revoked", flipped(flipped(old["revoked"], 2), 2)[:2] + b"\x01" + old["revoked"][3:])
        put("used", old["used"][:43] + (1000).to_bytes(4, "big") + old["used"][47:])
        del rows[handle["thirteen bytes, which begin another"]]

    edit(vault, "tokens", change)


DAMAGED = {
    "one byte": "a bit of the sealed value",
    "twelve bytes, which fill a block": "a bit of its expiry",
    "252 bytes, the last before Padmé": "another record in its place",
    "253 bytes, the first after": "cut short",
    "64 KiB": "a format that this version does not know",
    "not text": "an empty row",
    "revoked": "revoked, made active again",
    "used": "uses left, made more",
}


def damaged_records(checks, vault, records, process):
    """DATA_LOSS for each, for whoever asks, and nothing for its neighbours."""
    from client import DATA_LOSS, NOT_FOUND, Client, item_error

    client = Client(checks, vault, process)
    payments, operator = client.new("payments"), client.new("operator")
    names = [*DAMAGED, "thirteen bytes, which begin another", "a card number"]
    tokens = [records[name][0] for name in names]
    answer = client.detokenize(payments, "pan", *tokens)
    errors = [item_error(result) for result in answer.results]
    for name, error in zip(DAMAGED, errors, strict=False):
        client.is_(f"Detokenize DATA_LOSS of an item: {DAMAGED[name]}", error, DATA_LOSS)
    client.is_("Detokenize NOT_FOUND of an item: its row deleted", errors[-2], NOT_FOUND)
    client.is_("Detokenize: their neighbour is answered", answer.results[-1].value, VALUES["a card number"])
    event = client.event(payments, answer.receipt.sequence)
    outcomes = [client.e.ITEM_OUTCOME_CORRUPT] * len(DAMAGED)
    outcomes += [client.e.ITEM_OUTCOME_UNKNOWN, client.e.ITEM_OUTCOME_RELEASED]
    client.is_("Detokenize DATA_LOSS: in the event", list(event.item_outcomes), outcomes)
    for what, call in (("InspectTokens", client.inspect), ("RevokeTokens", client.revoke)):
        answer = call(operator, "pan", *tokens[: len(DAMAGED)])
        errors = [item_error(result) for result in answer.results]
        for name, error in zip(DAMAGED, errors, strict=True):
            client.is_(f"{what} DATA_LOSS of an item: {DAMAGED[name]}", error, DATA_LOSS)


def refused_starts(checks, vault, directory):
    """What is no longer authentic about the vault itself keeps it from starting."""

    def swap(one, two):
        def change(rows):
            rows[one], rows[two] = rows[two], rows[one]

        return change

    def flip(key, place):
        def change(rows):
            rows[key] = flipped(rows[key], place)

        return change

    def of_the_last(number, change):
        return lambda rows: change(rows, sorted(rows.keys())[-number])

    def drop(rows, key):
        del rows[key]

    def swap_data_keys(rows):
        swap(*[key for key in rows.keys() if key.startswith(b"data/")][:2])(rows)

    unauthentic = "does not verify"
    cases = [
        ("a scope's id is another's", "scopes", swap(b"pan", b"ssn"), f"the row scopes/pan {unauthentic}"),
        ("a data key is another scope's", "keys", swap_data_keys, unauthentic),
        ("a bit of the index key", "keys", flip(b"index\0\0\0\0\1", 70), unauthentic),
        ("the vault's id", "meta", flip(b"vault", 5), unauthentic),
        ("the log's name", "meta", flip(b"log", 3), f"meta/log {unauthentic}"),
        ("the time mark", "tree", flip(b"head", 45), "the row tree/head"),
        ("a format that this version does not know", "meta", flip(b"format", 2), "has format 259, which this version"),
        (
            "a bit of an event",
            "events",
            of_the_last(2, lambda rows, key: flip(key, -1)(rows)),
            "do not hash to the tree",
        ),
        ("the last event is missing", "events", of_the_last(1, drop), "acknowledged events are missing"),
        ("an event in between is missing", "events", of_the_last(3, drop), "is missing though later ones are there"),
    ]
    for number, (what, table, change, words) in enumerate(cases):
        damaged = vault.copy(directory / f"damaged-{number}")
        edit(damaged, table, change)
        said = damaged.refuses_to_start()
        checks.check(f"the vault does not start: {what}", words in (said or ""), said or "it started")
    other = vault.copy(directory / "damaged-root")
    (other.path / "root.key").write_text(f"cloakroom-root-key-v1:{os.urandom(32).hex()}\n", encoding="ascii")
    said = other.refuses_to_start()
    checks.check("the vault does not start: another root key", unauthentic in (said or ""), said or "it started")
    # And the editing itself is not what keeps them from starting.
    same = vault.copy(directory / "not-damaged")
    edit(same, "tokens", lambda rows: None)
    with same.running() as process:
        checks.check("the vault starts: opened and closed by another program", process.port > 0)


# === the whole ===


def vectors(checks):
    done = subprocess.run(
        [sys.executable, str(OPENER), "vectors", str(ROOT / "tests" / "vectors")],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    print(f"      {done.stdout.strip()}")
    checks.check("the frozen vectors, from docs/formats.md alone", done.returncode == 0, done.stderr)


def run(checks, binary, directory):
    checks.section("frozen vectors", vectors, checks)
    import audit_log

    checks.section("frozen exports", audit_log.vectors, checks)
    stubs = directory / "stubs"
    stubs.mkdir()
    vaults.generate_stubs(stubs)
    import client

    checks.section("a witness", witness.run, checks, binary, directory)
    vault = Vault.init(binary, directory / "vault")
    with vault.running() as process:
        whole = client.Client(checks, vault, process)
        for section in client.SECTIONS:
            checks.section(section.__name__.replace("_", " "), section, whole)
        checks.section("TLS", whole.tls, directory)
        checks.section("the auditor's report", report.check, checks, whole, vault, process)
        records = checks.section("records to be opened", store_records, checks, vault, process)
    checks.check("a vault that is told to stop ends with status 0", process.process.returncode == 0)
    checks.section("stopped", client.stopped, checks, process, vault)
    opener = Opener(directory)
    checks.section("stored records", foreign_record, checks, vault, records, opener, directory)
    checks.section("a damaged vault", refused_starts, checks, vault, directory)
    damage_records(vault, records)
    with vault.running() as process:
        checks.section("damaged records", damaged_records, checks, vault, records, process)

    import edits
    import hostile

    edits.run(checks, binary, directory)
    hostile_vault = Vault.init(binary, directory / "hostile")
    checks.section("hostile text (A-13)", hostile.run, checks, binary, hostile_vault, directory / "hostile-receivers")

    import sinks

    sending = Vault.init(binary, directory / "sending")
    checks.section("sinks", sinks.run, checks, sending, directory / "receivers")
    small = Vault.init(binary, directory / "small")
    with small.running({"CLOAKROOM_LEDGER__MAX_QUEUED_CALLS": "1"}) as process:
        checks.section("too much", client.overload, checks, process, small)
    logged = Vault.init(binary, directory / "logged")
    with logged.running() as process:
        whole = client.Client(checks, logged, process)
        checks.section("the audit log", audit_log.vault_log, checks, whole, binary, logged, process, directory)
    failing = Vault.init(binary, directory / "failing")
    faults = ["strace", "-f", "-qq", "-o", str(directory / "strace"), "-e", "trace=fdatasync"]
    faults += ["-e", "inject=fdatasync:error=EIO:when=40+"]
    with failing.running(wrapper=faults) as process:
        tokens = checks.section("a disk that fails", client.unwritable, checks, process, failing)
    with failing.running() as process:
        checks.section("the disk works again", client.afterwards, checks, process, failing, tokens)
    checks.section("documented", client.documented, checks, ROOT / "docs" / "errors.md")


def main():
    binary, directory = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    directory.mkdir(parents=True, exist_ok=True)
    checks = Checks()
    with tempfile.TemporaryDirectory(dir=directory) as fresh:
        checks.section("the suite", run, checks, binary, Path(fresh))
    print(f"{checks.passed} passed, {checks.failed} failed")
    return 1 if checks.failed or not checks.passed else 0


if __name__ == "__main__":
    sys.exit(main())
