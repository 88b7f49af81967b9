"""Someone who may write to the database: rows of a stopped vault are edited with a database library of another language.

Each kind of row is edited in every way that somebody might try, the vault is started again and asked, and `cloakroom verify`
is asked too. What must come of it stands in docs/threat-model.md: an edited record gives no value, only its own item fails,
one event says so and a metric counts it; an authentic older copy is named by `cloakroom verify`.
"""

import base64
import hashlib
import hmac
import json
import re
import subprocess
import urllib.request
import uuid

import grpc

from client import DATA_LOSS, NOT_FOUND, Answer, Caller, Client, item_error
from vault import PATIENCE, Vault, environment

# The longest header but for what no scope uses yet, and a sealed value of 112 and 32 bytes.
VALUE = b"the value of a record that is edited, in as many bytes as make a row of some length: 4111111111111111"
FRONT = 43 + 4 + 16 + 16
ROW = FRONT + 112 + 32
SCOPE, OTHER = "foreign/quiet", "foreign/extra"
AN_HOUR = (3600, 0)
METRIC = "cloakroom_records_damaged_total"


# === the editor ===


def tables(vault):
    """The tables of a stopped vault, to write. To be closed."""
    from open_record import TABLES
    from rocksdict import DBCompressionType, Options, Rdict

    # What is flushed here has to be readable there: without compression.
    settings = {name: Options(raw_mode=True) for name in [*TABLES, "default"]}
    for options in settings.values():
        options.set_compression_type(DBCompressionType.none())
    database = Rdict(str(vault.path / "data"), settings.pop("default"), settings)
    return database, {name: database.get_column_family(name) for name in TABLES}


def edit(vault, change):
    """Changes the tables of a stopped vault behind its back."""
    database, families = tables(vault)
    try:
        return change(families)
    finally:
        database.close()


def put(table, changes):
    """An edit: rows by key, `None` for one that goes."""

    def change(families):
        for key, row in changes.items():
            if row is None:
                del families[table][key]
            else:
                families[table][key] = row

    return change


def rows_of(vault, table):
    return edit(vault, lambda families: dict(families[table].items()))


def flipped(row, place, bit=0):
    changed = bytearray(row)
    changed[place] ^= 1 << bit
    return bytes(changed)


# === what the vault says ===


def metric(process, name):
    """The sum of a counter over its labels."""
    with urllib.request.urlopen(f"http://{process.operations}/metrics", timeout=PATIENCE) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.match(rf"{name}[{{ ]", line))


def verify(vault, *options):
    """Exit status and report of `cloakroom verify`."""
    command = [str(vault.binary), "verify", "--config", str(vault.path / "cloakroom.toml"), "--output", "json", *options]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE, env=environment())
    try:
        return done.returncode, json.loads(done.stdout)
    except json.JSONDecodeError:
        return done.returncode, {"said": done.stderr.decode()}


def findings(report):
    return sorted((finding["kind"], finding["handle"]) for finding in report.get("findings", []))


def rolled(client, caller, scope, tokens, names, values):
    """Detokenizes all `tokens`, of which some are damaged, in as few calls as possible. Returns what is wrong, as text, and
    how many items were found damaged."""
    wrong, damaged = [], 0
    for start in range(0, len(tokens), 1000):
        part = slice(start, start + 1000)
        answer = client.detokenize(caller, scope, *tokens[part])
        outcomes = []
        for name, value, result in zip(names[part], values[part], answer.results, strict=True):
            error = item_error(result)
            if value is None:
                outcomes.append(client.e.ITEM_OUTCOME_CORRUPT)
                damaged += 1
                if error != DATA_LOSS or result.value:
                    wrong.append(f"{name}: {error}")
            else:
                outcomes.append(client.e.ITEM_OUTCOME_RELEASED)
                if error is not None or result.value != value:
                    wrong.append(f"a neighbour of {name}: {error}")
        said = [
            event
            for event in client.events(caller=caller.id, newest_first=True, page_size=1000).events
            if event.sequence >= answer.receipt.sequence
        ]
        if len(said) != 1 or list(said[0].item_outcomes) != outcomes or said[0].succeeded != outcomes.count(2):
            wrong.append(f"{len(said)} events say what became of the items from {start} on")
    return wrong, damaged


# === every edit of a record ===


def edits_of(rows, others, foreign):
    """All edits: what it is, and the row in the place of the next of `rows`. `others` are rows of the same scope, of the same
    shape, and stay; `foreign` are another scope's."""
    rows = iter(rows)
    other = others[0]

    def edited(what, change):
        key, row = next(rows)
        changed = change(row)
        if changed == row:
            raise RuntimeError(f"{what} changes nothing")
        return key, what, changed

    for place in range(ROW):
        yield edited(f"bit {place % 8} of byte {place}", lambda row: flipped(row, place, place % 8))
    for length in range(ROW):
        yield edited(f"cut to {length} bytes", lambda row: row[:length])
    for more in (1, 15, 16, 17, 32, 100, 65536):
        yield edited(f"{more} zeros more", lambda row: row + bytes(more))
        yield edited(f"{more} zeros in front", lambda row: bytes(more) + row)
    yield edited("its own bytes twice", lambda row: row + row)
    for byte in (0x00, 0xFF):
        yield edited(f"all {byte:02x}", lambda row: bytes([byte]) * len(row))
        yield edited(f"all {byte:02x} behind the format", lambda row: row[:1] + bytes([byte]) * (len(row) - 1))
        yield edited(f"its sealed value all {byte:02x}", lambda row: row[:FRONT] + bytes([byte]) * (len(row) - FRONT))
    # A field from another record of the scope, and runs of neighbouring fields.
    fields = [0, 1, 2, 3, 7, 11, 15, 19, 27, 35, 43, 47, 63, FRONT, FRONT + 112, FRONT + 128, ROW]
    for first, start in enumerate(fields[:-1]):
        for end in fields[first + 1 :]:
            taken = lambda row: row[:start] + other[start:end] + row[end:]
            if taken(others[1]) != others[1]:
                yield edited(f"bytes {start} to {end} from another record", taken)
    for what, at, content in [
        ("format 0", 0, b"\x00"),
        ("format 2", 0, b"\x02"),
        ("format 255", 0, b"\xff"),
        ("flags of nothing", 1, b"\x00"),
        ("flags of all", 1, b"\x07"),
        ("a flag that is none", 1, b"\x09"),
        ("state 0", 2, b"\x00"),
        ("revoked", 2, b"\x02"),
        ("suspended", 2, b"\x03"),
        ("state 255", 2, b"\xff"),
        ("scope 0", 3, bytes(4)),
        ("a scope that does not exist", 3, b"\x7f\xff\xff\xff"),
        ("the other scope", 3, foreign[0][3:7]),
        ("version 0 of the index key", 7, bytes(4)),
        ("version 2 of the index key", 7, (2).to_bytes(4, "big")),
        ("version 0 of the data key", 11, bytes(4)),
        ("version 2 of the data key", 11, (2).to_bytes(4, "big")),
        ("the last version of the data key", 11, b"\xff" * 4),
        ("record version 0", 15, bytes(4)),
        ("record version 1", 15, (1).to_bytes(4, "big")),
        ("record version 3", 15, (3).to_bytes(4, "big")),
        ("created in 1970", 19, bytes(8)),
        ("changed in 1970", 27, bytes(8)),
        ("expires never", 35, b"\xff" * 8),
        ("expires in 2150", 35, (5_680_281_600_000).to_bytes(8, "big")),
        ("uses without end", 43, b"\xff" * 4),
        ("no use left", 43, bytes(4)),
        ("both salts zero", 47, bytes(32)),
    ]:
        yield edited(what, lambda row: row[:at] + content + row[at + len(content) :])
    yield edited("uses taken out", lambda row: row[:1] + b"\0" + row[2:43] + row[47:])
    yield edited("salts exchanged", lambda row: row[:47] + row[63:79] + row[47:63] + row[79:])
    yield edited("tags exchanged", lambda row: row[: ROW - 32] + row[ROW - 16 :] + row[ROW - 32 : ROW - 16])
    yield edited("another record of the scope", lambda _: others[0])
    yield edited("another scope's record", lambda _: foreign[0])
    yield edited("another scope's record with this scope's number", lambda row: foreign[0][:3] + row[3:7] + foreign[0][7:])
    yield edited("the other half of another record", lambda row: row[:FRONT] + others[0][FRONT:])
    yield edited("empty", lambda _: b"")
    yield edited("text", lambda _: VALUE)
    # Each in the other's place.
    for mine, its in (((key_a, a), (key_b, b)) for (key_a, a), (key_b, b) in [(next(rows), next(rows)) for _ in range(3)]):
        yield mine[0], "exchanged with another", its[1]
        yield its[0], "exchanged with another", mine[1]


def records(checks, binary, directory):
    """Every edit of a record, all in one vault."""
    vault = Vault.init(binary, directory / "edited")
    with vault.running() as process:
        client = Client(checks, vault, process)
        tester = client.new("tester")
        items = [client.item(VALUE, max_uses=9) for _ in range(1000)]
        issued = [r.issued for r in client.tokenize(tester, SCOPE, *items).results]
        extra = [client.item(VALUE, ttl=AN_HOUR, max_uses=9) for _ in range(3)]
        foreign = [r.issued for r in client.tokenize(tester, OTHER, *extra).results]
        clean = rolled(client, tester, SCOPE, [i.token for i in issued], range(1000), [VALUE] * 1000)[0]
        client.is_("an edited record: before, every one is answered", clean, [])
        client.is_("an edited record: before, none is counted as damaged", metric(process, METRIC), 0)
    kept = rows_of(vault, "tokens")
    keys = [bytes.fromhex(record.handle) for record in issued]
    # Every tenth stays as it is, so that each edit has a good neighbour in its call.
    good = keys[::10]
    victims = [(key, kept[key]) for place, key in enumerate(keys) if place % 10]
    foreign_keys = [bytes.fromhex(record.handle) for record in foreign]
    edits = {}
    for key, what, row in edits_of(victims, [kept[key] for key in good], [kept[key] for key in foreign_keys]):
        edits[key] = (what, row)
    # This scope's record in the other scope, and a copy under a handle that has none.
    other_way = {foreign_keys[0]: kept[good[1]]}
    copy = bytes([0, 0, 0, 1]) + bytes(range(16))
    edit(vault, put("tokens", {key: row for key, (_, row) in edits.items()} | other_way | {copy: kept[good[0]]}))

    status, report = verify(vault)
    named = {finding["handle"] for finding in report.get("findings", [])}
    missed = [what for key, (what, _) in edits.items() if key.hex() not in named]
    checks.check("an edited record: verify names each", status == 1 and (not missed or report["more"] > 0), str(missed[:9]))
    with vault.running() as process:
        client = Client(checks, vault, process)
        tester, operator = client.new("tester"), client.new("operator")
        tokens = [record.token for record in issued]
        values = [None if key in edits else VALUE for key in keys]
        names = [edits.get(key, ("untouched",))[0] for key in keys]
        wrong, damaged = rolled(client, tester, SCOPE, tokens, names, values)
        client.is_(f"an edited record: {len(edits)} edits, no value, DATA_LOSS and one event each", wrong, [])
        client.is_("an edited record: counted by the metric", metric(process, METRIC), damaged)
        wrong, _ = rolled(client, tester, OTHER, [r.token for r in foreign], ["moved", "", ""], [None, VALUE, VALUE])
        client.is_("an edited record: moved to another scope", wrong, [])
        changes = {
            "renewed": lambda: client.renew(tester, SCOPE, *tokens, seconds=3600),
            "inspected": lambda: client.inspect(tester, SCOPE, *tokens),
            "revoked": lambda: client.revoke(tester, SCOPE, *[t for t, v in zip(tokens, values) if v is None]),
        }
        for what, call in changes.items():
            answer = call()
            expected = [DATA_LOSS if value is None else None for value in values]
            if what == "revoked":
                expected = [DATA_LOSS] * len(edits)
            client.is_(f"an edited record: not {what}", [item_error(r) for r in answer.results], expected)
        answer = client.inspect(tester, SCOPE, handles=[copy.hex(), good[0].hex()])
        found = [item_error(result) for result in answer.results]
        client.is_("an edited record: a copy under another handle", found, [DATA_LOSS, None])
    now = rows_of(vault, "tokens")
    same = all(now[key] == row for key, (_, row) in edits.items())
    checks.check("an edited record: nothing that the vault did changed it", same)

    # And with each row back in its place all is as it was, but for what the good ones went through meanwhile.
    edit(vault, put("tokens", {key: kept[key] for key in edits} | {foreign_keys[0]: kept[foreign_keys[0]], copy: None}))
    status, report = verify(vault)
    checks.check("a record that is put right: verify finds nothing", status == 0, str(report)[:500])
    with vault.running() as process:
        client = Client(checks, vault, process)
        tester = client.new("tester")
        wrong, _ = rolled(client, tester, SCOPE, tokens, names, [VALUE] * len(tokens))
        client.is_("a record that is put right: is answered", wrong, [])
        client.is_("a record that is put right: none is counted", metric(process, METRIC), 0)


# === authentic copies ===


def older_copies(checks, binary, directory):
    """What no lock can see: rows as they were before a revocation, before a use, before a deletion."""
    vault = Vault.init(binary, directory / "rolled-back")
    with vault.running() as process:
        client = Client(checks, vault, process)
        tester = client.new("tester")
        items = [client.item(VALUE), client.item(VALUE, max_uses=1), client.item(VALUE), client.item(VALUE, max_uses=3)]
        issued = [r.issued for r in client.tokenize(tester, SCOPE, *items).results]
    tokens, handles = [i.token for i in issued], [i.handle for i in issued]
    revoked, used_up, deleted, used = (bytes.fromhex(handle) for handle in handles)
    old = rows_of(vault, "tokens")
    with vault.running() as process:
        client = Client(checks, vault, process)
        tester = client.new("tester")
        client.revoke(tester, SCOPE, tokens[0])
        client.detokenize(tester, SCOPE, tokens[1], tokens[3])
        gone = [item_error(result) for result in client.detokenize(tester, SCOPE, *tokens[:2]).results]
        client.is_("an older copy: revoked and used up are gone", gone, [NOT_FOUND] * 2)
    new = rows_of(vault, "tokens")
    checks.check("an older copy: before, verify finds nothing", verify(vault)[0] == 0)

    def named(what, changes, expected):
        edit(vault, put("tokens", changes))
        status, report = verify(vault)
        found = findings(report)
        certain = all(finding["certain"] for finding in report.get("findings", []))
        holds = status == 1 and certain and found == sorted((kind, key.hex()) for kind, key in expected)
        checks.check(f"an older copy: verify names {what}", holds, f"{status} {found}")
        # And while it serves.
        with vault.running():
            status, report = verify(vault)
            checks.check(f"an older copy: verify names {what} while the vault runs", status == 1 and findings(report) == found)
        edit(vault, put("tokens", {key: new.get(key) for key in changes}))

    named("a revoked token that lives again", {revoked: old[revoked]}, [("stale", revoked)])
    named("a used-up token that has its use again", {used_up: old[used_up]}, [("stale", used_up)])
    named("a token with its uses given back", {used: old[used]}, [("stale", used)])
    named("a deleted row", {deleted: None}, [("missing", deleted)])
    every = {revoked: old[revoked], used_up: old[used_up], used: old[used], deleted: None}
    named("all of them at once", every, [("stale", revoked), ("stale", used_up), ("stale", used), ("missing", deleted)])
    checks.check("an older copy: taken away again, verify finds nothing", verify(vault)[0] == 0)


# === all other tables ===


class Site:
    """A stopped vault with rows in every table, of which copies are edited."""

    def __init__(self, checks, binary, directory):
        self.checks, self.directory, self.copies = checks, directory, 0
        self.vault = Vault.init(binary, directory / "rows")
        self.request_id = str(uuid.uuid4())
        with self.vault.running() as process:
            client = Client(checks, self.vault, process)
            tester = client.new("tester")
            self.identity = tester.identity
            self.first = self.again(client, tester)
            issued = [r.issued for r in client.tokenize(tester, SCOPE, *[VALUE] * 20).results]
            client.tokenize(tester, OTHER, client.item(VALUE, ttl=AN_HOUR))
            # More than two tiles of events, and some that are in none yet.
            for number in range(600):
                client.detokenize(tester, SCOPE, issued[number % 20].token)
        self.tokens, self.handles = [i.token for i in issued], [i.handle for i in issued]
        self.rows = edit(self.vault, lambda families: {name: dict(rows.items()) for name, rows in families.items()})

    def again(self, client, caller):
        """The call that is remembered, once more."""
        answer = client.tokenize(caller, SCOPE, VALUE, VALUE, request_id=self.request_id)
        return [result.issued.token for result in answer.results]

    def edited(self, table, changes):
        """A copy with some rows changed."""
        self.copies += 1
        copy = self.vault.copy(self.directory / f"rows-{self.copies}")
        edit(copy, put(table, changes))
        return copy

    def refuses(self, what, table, changes, words):
        said = self.edited(table, changes).refuses_to_start()
        self.checks.check(f"the vault does not start: {what}", words in (said or ""), said or "it started")

    def serves(self, what, vault, look):
        """It starts, and a caller is still answered; `look` sees more."""
        with vault.running() as process:
            client = Client(self.checks, vault, process)
            caller = Caller(process, self.identity)
            look(client, caller, process)
            fresh = client.issue(caller, OTHER, client.item(VALUE, ttl=AN_HOUR))
            values = [result.value for result in client.detokenize(caller, OTHER, *fresh).results]
            client.is_(f"{what}: a good caller is served", values, [VALUE])

    def shown(self, client, caller):
        return [item_error(result) for result in client.detokenize(caller, SCOPE, *self.tokens).results]


def starts(site):
    """What a start refuses, beside what `refused_starts` tries."""
    tree, keys, meta = site.rows["tree"], site.rows["keys"], site.rows["meta"]
    tile, not_tree = b"tile/0/000", "do not hash to the tree"
    head = "the row tree/head, which each commit writes, is missing or was changed"
    cases = [("a bit of a tile", "tree", {tile: flipped(tree[tile], 77)}, not_tree)]
    cases += [("a tile is missing", "tree", {tile: None}, not_tree), ("an empty tile", "tree", {tile: b""}, not_tree)]
    cases += [("two tiles exchanged", "tree", {tile: tree[b"tile/0/001"], b"tile/0/001": tree[tile]}, not_tree)]
    cases += [(f"the head {what}", "tree", {b"head": row}, head) for what, row in [("is missing", None), ("empty", b"")]]
    cases += [("a bit of the head", "tree", {b"head": flipped(tree[b"head"], place)}, head) for place in (3, 50, -1)]
    last = max(site.rows["events"])
    behind = (int.from_bytes(last, "big") + 1).to_bytes(8, "big")
    cases += [("an event more", "events", {behind: site.rows["events"][last]}, "but the last commit left it with")]
    for name in (b"index", b"request", b"state"):
        key = next(key for key in keys if key.startswith(name))
        cases += [(f"no {name.decode()} key", "keys", {key: None}, f"keys/{name.decode()} is missing or damaged")]
    cases += [(f"no row {name.decode()}", "meta", {name: None}, f"meta/{name.decode()} is missing") for name in meta]
    cases += [("a row of scopes that nobody wrote", "scopes", {b"zzz": site.rows["scopes"][b"pan"]}, "does not verify")]
    cases += [("a row of keys that nobody wrote", "keys", {b"zzz": next(iter(keys.values()))}, "does not verify")]
    scope = SCOPE.encode()
    cases += [("a scope that has a key, without its row", "scopes", {scope: None}, "the scope that belongs to")]
    for case in cases:
        site.refuses(*case)


def named_by_verify(site):
    """What a start does not see, and `cloakroom verify` names."""
    checks, sums = site.checks, site.rows["state"]
    one, other = sorted(sums)[:2]
    cases = [("a bit of a sum", {one: flipped(sums[one], -1)}), ("a sum is missing", {one: None}), ("a sum is empty", {one: b""})]
    cases += [("two sums exchanged", {one: sums[other], other: sums[one]}), ("a sum that nobody wrote", {bytes(8): sums[one]})]
    for what, changes in cases:
        vault = site.edited("state", changes)
        status, report = verify(vault)
        right = status == 1 and report["records_fit"] and report["groups_wrong"] and not report["findings"]
        checks.check(f"{what}: verify says that a sum is wrong and the records are right", right, str(report)[:300])
        site.serves(what, vault, lambda client, caller, _: client.is_(what, site.shown(client, caller), [None] * 20))

    number = int.from_bytes(site.rows["scopes"][SCOPE.encode()][1:5], "big")
    key = b"data/%d\0\0\0\0\1" % number
    vault = site.edited("keys", {key: None})
    status, report = verify(vault)
    named = {handle for kind, handle in findings(report) if kind == "damaged"}
    checks.check("a data key is missing: verify names each record", status == 1 and set(site.handles) <= named)
    what = "a data key is missing"
    site.serves(what, vault, lambda client, caller, _: client.is_(what, site.shown(client, caller), [DATA_LOSS] * 20))
    # With its scope: then nothing is left of it but its records.
    edit(vault, put("scopes", {SCOPE.encode(): None}))
    status, report = verify(vault)
    named = {handle for _, handle in findings(report)}
    checks.check("a scope and its key are missing: verify names each record", status == 1 and set(site.handles) <= named)

    index = site.rows["event_index"]
    of_handle = [key for key in sorted(index) if key[:21] == b"h" + bytes.fromhex(site.handles[3])]
    issue = max(key for key in index if key[:1] == b"i")
    cases = [("a row of the index is missing", {of_handle[5]: None}, ["missing"])]
    cases += [("all rows of a caller are missing", {key: None for key in index if key[:1] == b"c"}, ["missing"])]
    cases += [("all rows of a scope are missing", {key: None for key in index if key[:1] == b"s"}, ["missing"])]
    cases += [("the marks of what was issued", {issue: flipped(index[issue], 0)}, ["changed"])]
    cases += [("a row to another event", {of_handle[5]: None, of_handle[5][:-8] + bytes(8): b""}, ["extra", "missing"])]
    for what, changes, kinds in cases:
        vault = site.edited("event_index", changes)
        status, report = verify(vault, "--index")
        found = sorted({finding["kind"] for finding in report["index"]["findings"]})
        count = sum(key in changes for key in index) + ("extra" in kinds)
        many = len(report["index"]["findings"]) + report["index"]["more"]
        checks.check(f"the index of events: {what}: verify --index names it", (status, found, many) == (1, kinds, count), str(found))
        site.serves(what, vault, lambda *_: None)
    status, report = verify(site.vault, "--index")
    checks.check("the index of events: as the vault wrote it", status == 0 and report["index"]["clean"] and report["index"]["rows"] > 1000)


def named_by_audit_verify(site):
    """Events that are in full tiles already are for `cloakroom audit verify` to check."""
    events = sorted(site.rows["events"])
    rows = site.rows["events"]
    for what, changes in [
        ("a bit of an old event", {events[3]: flipped(rows[events[3]], -1)}),
        ("two old events exchanged", {events[3]: rows[events[4]], events[4]: rows[events[3]]}),
        ("an old event empty", {events[3]: b""}),
        ("an old event is missing", {events[3]: None}),
    ]:
        vault = site.edited("events", changes)

        def look(client, caller, process):
            copy = vault.path / "log.jsonl"
            environment_of = environment({"CLOAKROOM_ADDRESS": process.address})
            profile = str(vault.path / "profiles" / "auditor.toml")
            command = [str(vault.binary), "audit", "export", str(copy), "--profile", profile]
            exported = subprocess.run(command, capture_output=True, timeout=PATIENCE, env=environment_of)
            command = [str(vault.binary), "audit", "verify", str(copy), "--key", str(vault.path / "log.vkey")]
            verified = subprocess.run(command, capture_output=True, timeout=PATIENCE, env=environment_of)
            found = exported.returncode != 0 and verified.returncode != 0
            said = exported.stderr.decode()[-200:]
            site.checks.check(f"{what}: neither export nor audit verify takes it", found, said)
            client.is_(f"{what}: values are still released", site.shown(client, caller), [None] * 20)

        site.serves(what, vault, look)


def forgotten(site):
    """What only serves the vault's memory: remembered calls, and what leads the purge. An edit costs no value."""
    requests = site.rows["requests"]
    [name] = requests
    row = requests[name]

    def once_more(client, caller):
        try:
            return "the same" if site.again(client, caller) == site.first else "made anew"
        except grpc.RpcError as error:
            return Answer(error).info.reason

    other = flipped(name, 0)
    for what, changes, expected in [
        ("as it was", {}, "the same"),
        ("a bit of its answer", {name: flipped(row, -1)}, "REQUEST_ID_USED"),
        ("a bit of its salt", {name: flipped(row, 12)}, "REQUEST_ID_USED"),
        ("another format", {name: flipped(row, 0)}, "REQUEST_ID_USED"),
        ("kept for longer", {name: row[:1] + b"\x7f" * 8 + row[9:]}, "REQUEST_ID_USED"),
        ("empty", {name: b""}, "REQUEST_ID_USED"),
        ("forgotten before its time", {name: row[:1] + bytes(8) + row[9:]}, "made anew"),
        ("deleted", {name: None}, "made anew"),
        ("under another name", {name: None, other: row}, "made anew"),
    ]:
        vault = site.edited("requests", changes)
        what = f"a remembered call, {what}"
        site.serves(what, vault, lambda client, caller, _: client.is_(what, once_more(client, caller), expected))

    expiry = site.rows["expiry"]
    key = max(expiry, key=lambda key: len(expiry[key]))
    for what, changes in [
        ("a bit of what leads the purge", {key: flipped(expiry[key], 5)}),
        ("what leads the purge is cut off", {key: expiry[key][:-1]}),
        ("what leads the purge, in another hour", {key: None, bytes(4) + key[4:]: expiry[key]}),
        ("nothing leads the purge", dict.fromkeys(expiry)),
    ]:
        vault = site.edited("expiry", changes)
        site.serves(what, vault, lambda client, caller, _: client.is_(what, site.shown(client, caller), [None] * 20))
        checks_out = verify(vault)[0] == 0
        site.checks.check(f"{what}: no record is purged before its time", checks_out)


def other_rows(checks, binary, directory):
    site = Site(checks, binary, directory)
    for part in (starts, named_by_verify, named_by_audit_verify, forgotten):
        part(site)


# === guesses ===


def low_entropy(checks, binary, directory):
    """Who has the database and guesses values right still finds nothing there that follows from them (A-12)."""
    from open_record import Vault as Opened
    from open_record import database, handle_input, lp, mac, name_token, read_root_key, u32

    vault = Vault.init(binary, directory / "guessed")
    values = [b"4111111111111111", b"5500005555555559", b"078051120", b"078-05-1120", b"1970-01-01"]
    with vault.running() as process:
        client = Client(checks, vault, process)
        tester = client.new("tester")
        twice = [client.item(value, ttl=AN_HOUR) for value in values * 2]
        tokens = {scope: client.issue(tester, scope, *twice) for scope in (SCOPE, OTHER)}
        for scope, some in tokens.items():
            client.detokenize(tester, scope, *some)
            client.tokenize(tester, scope, *values, request_id=str(uuid.uuid4()))
        public = [tester.id.encode(), tester.identity.fingerprint, client.log_id.encode()]
    with database(vault.path / "data") as families:
        rows = [part for rows in families.values() for row in rows.items() for part in row]
        opened = Opened(families, read_root_key(vault.path / "root.key"))
        scopes = {scope: opened.scope_id(scope) for scope in tokens}
        index_key = opened.index_key()
    found = b"\n".join([*rows, *(row.hex().encode() for row in rows), *(base64.b64encode(row) for row in rows)])

    keys = [b"", bytes(16), bytes(32), b"\xff" * 32, b"cloakroom", b"secret", b"key", b"index", opened.id, *public]
    keys += [name.encode() for name in scopes] + [u32(number) for number in scopes.values()]
    keys += [b"cloakroom/v1/" + label for label in (b"inner", b"outer", b"request", b"answer", b"meta", b"wrap")]
    guesses, hashes = set(), ("sha256", "sha512", "sha1", "md5", "blake2b", "sha3_256")
    for value in values:
        for name in hashes:
            for key in keys:
                texts = [key + value, value + key, lp(key, value), lp(value), key + b"/" + value, key + b":" + value]
                guesses.update(hashlib.new(name, text).digest() for text in texts)
                guesses.add(hmac.new(key, value, name).digest())
                guesses.add(hmac.new(value, key, name).digest())
    # Eight bytes of one would do to recognise it, at either end, as bytes or as text.
    needles = {part for guess in guesses for part in (guess[:8], guess[-8:])}
    needles |= {needle.hex().encode() for needle in needles}
    seen = [needle for needle in needles if needle in found]
    checks.check(f"none of {len(guesses)} hashes of guessed values is in {len(rows)} keys and rows", not seen)
    # The control: with the vault's key, and the token, a row's key is known.
    tails = []
    for scope, some in tokens.items():
        for token in some:
            canonical, handle = name_token(index_key, scopes[scope], token)
            tails.append(mac(index_key, handle_input(scopes[scope], canonical))[:16])
            if handle[4:] != tails[-1] or tails[-1] not in found or tails[-1][:8].hex().encode() not in found:
                checks.check("the search finds a handle that is there", False)
    checks.check("the search finds every handle, and equal values have other ones, in a scope and in another", len(set(tails)) == 20)


def run(checks, binary, directory):
    checks.section("guessed values (A-12)", low_entropy, checks, binary, directory)
    checks.section("edited rows of all other tables", other_rows, checks, binary, directory)
    checks.section("edited records (C-02, C-03, C-06)", records, checks, binary, directory)
    checks.section("older copies of records (C-04, C-05)", older_copies, checks, binary, directory)
