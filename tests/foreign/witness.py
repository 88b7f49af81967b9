"""A log that speaks C2SP tlog-witness to our witness, written from docs/formats.md and docs/witness.md: its own Merkle tree,
its own notes, and another Ed25519."""

import base64
import hashlib
import http.client
import json
import signal
import subprocess
import time

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from vault import PATIENCE, ROOT, environment

LOG, COSIGNATURE = 0x01, 0x04
ORIGIN = "foreign.example/log"


# === notes ===


def encode(content):
    return base64.b64encode(content).decode()


def key_id(name, kind, public):
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + public).digest()[:4]


def line(name, identifier, signature):
    return f"— {name} {encode(identifier + signature)}\n"


def parse_vkey(text):
    """Name, id, type and public key; the id must follow from the others."""
    name, identifier, content = text.strip().split("+", 2)
    content = base64.b64decode(content, validate=True)
    kind, public = content[0], content[1:]
    if bytes.fromhex(identifier) != key_id(name, kind, public):
        raise ValueError("the key's id does not follow from its content")
    return name, bytes.fromhex(identifier), kind, public


def cosigned(note_text, lines, vkey):
    """The time of the one cosignature among `lines`, or `None`."""
    name, identifier, kind, public = parse_vkey(vkey)
    if kind != COSIGNATURE or not lines.endswith("\n"):
        return None
    times = []
    for signature in lines[:-1].split("\n"):
        dash, signer, content = signature.split(" ")
        content = base64.b64decode(content, validate=True)
        if (dash, signer, content[:4]) != ("—", name, identifier) or len(content) != 4 + 8 + 64:
            continue
        seconds = int.from_bytes(content[4:12], "big")
        message = f"cosignature/v1\ntime {seconds}\n{note_text}".encode()
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(content[12:], message)
        except InvalidSignature:
            continue
        times.append(seconds)
    return times[0] if len(times) == 1 else None


# === a tree by the definitions of RFC 6962 ===


def split(count):
    """The largest power of two below `count`."""
    return 1 << ((count - 1).bit_length() - 1)


def root(leaves):
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    middle = split(len(leaves))
    return hashlib.sha256(b"\x01" + root(leaves[:middle]) + root(leaves[middle:])).digest()


def proof(old, leaves, whole=True):
    """RFC 6962, 2.1.2."""
    if old == len(leaves):
        return [] if whole else [root(leaves)]
    middle = split(len(leaves))
    if old <= middle:
        return [*proof(old, leaves[:middle], whole), root(leaves[middle:])]
    return [*proof(old - middle, leaves[middle:], False), root(leaves[:middle])]


class Log:
    """A log with a key of its own."""

    def __init__(self, origin=ORIGIN, seed=b"foreign log"):
        self.origin = origin
        self.key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(seed).digest())
        self.public = self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.leaves = []

    def grow(self, size, what="event"):
        self.leaves += [f"{what} {number}".encode() for number in range(len(self.leaves), size)]
        return self

    def fork(self, size, to):
        other = Log.__new__(Log)
        other.__dict__.update(self.__dict__)
        other.leaves = self.leaves[:size]
        return other.grow(to, "forged")

    @property
    def vkey(self):
        return f"{self.origin}+{key_id(self.origin, LOG, self.public).hex()}+{encode(bytes([LOG]) + self.public)}"

    def text(self, size, *extensions):
        lines = [self.origin, str(size), encode(root(self.leaves[:size])), *extensions]
        return "".join(f"{line}\n" for line in lines)

    def sign(self, text):
        return line(self.origin, key_id(self.origin, LOG, self.public), self.key.sign(text.encode()))

    def request(self, old, size, *extensions, hashes=None):
        text = self.text(size, *extensions)
        if hashes is None:
            hashes = proof(old, self.leaves[:size]) if 0 < old <= size else []
        return f"old {old}\n" + "".join(f"{encode(hash)}\n" for hash in hashes) + "\n" + text + "\n" + self.sign(text)


# === the witness ===


class Witness:
    """A witness's directory and its process."""

    def __init__(self, binary, path, *logs):
        self.binary, self.path = binary, path
        arguments = []
        for number, log in enumerate(logs):
            file = path.parent / f"{path.name}-{number}.vkey"
            file.write_text(log.vkey + "\n", encoding="utf-8")
            arguments += ["--log", str(file)]
        command = [str(binary), "witness", "init", str(path), "--name", "foreign.example/witness", *arguments]
        subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE, env=environment())
        self.vkey = (path / "witness.vkey").read_text(encoding="utf-8")
        self.process = None

    def start(self):
        command = [str(self.binary), "witness", "serve", "--config", str(self.path / "witness.toml")]
        with open(self.path / "serve.log", "ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment({"CLOAKROOM_WITNESS__LISTEN": "127.0.0.1:0"}),
            )
        said = self.process.stdout.readline().decode()
        if not said.startswith("listening on "):
            raise RuntimeError((self.path / "serve.log").read_text(encoding="utf-8"))
        host, _, port = said.removeprefix("listening on ").strip().rpartition(":")
        self.connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE)

    def end(self, how=signal.SIGTERM):
        self.connection.close()
        self.process.send_signal(how)
        return self.process.wait(PATIENCE)

    def post(self, body):
        """Status, content type and text; over one connection as long as it holds."""
        self.connection.request("POST", "/add-checkpoint", body.encode() if isinstance(body, str) else body)
        answer = self.connection.getresponse()
        return answer.status, answer.getheader("Content-Type"), answer.read().decode()


def run(checks, binary, directory):
    vectors(checks)
    log, other, stranger = Log().grow(300), Log("foreign.example/other").grow(5), Log(seed=b"stranger").grow(300)
    witness = Witness(binary, directory / "witness", log, other)
    name, _, kind, _ = parse_vkey(witness.vkey)
    checks.check("the witness's vkey is one for cosignatures", (name, kind) == ("foreign.example/witness", COSIGNATURE))
    witness.start()
    try:
        conversation(checks, witness, log, other, stranger)
        witness.end(signal.SIGKILL)
        witness.start()
        status, kind, said = witness.post(log.request(0, 300))
        told = (status, kind, said)
        checks.check("killed and started again it knows the size", told == (409, "text/x.tlog.size", "290\n"), str(told))
        forged = log.fork(280, 300)
        checks.check("… and the root", witness.post(forged.request(290, 300))[0] == 422)
        checks.check("… and goes on from there", witness.post(log.request(290, 300))[0] == 200)
    finally:
        status = witness.end()
    checks.check("a witness that is told to stop ends with status 0", status == 0, str(status))


def conversation(checks, witness, log, other, stranger):
    last = 0
    for size in (1, 2, 3, 7, 8, 13, 64, 255, 256, 257, 290):
        before = int(time.time())
        status, _, lines = witness.post(log.request(last, size))
        seconds = cosigned(log.text(size), lines, witness.vkey) if status == 200 else None
        good = seconds is not None and before <= seconds <= time.time()
        checks.check(f"from {last} to {size} events is cosigned, now", good, f"{status} {lines}")
        last = size
    text = "time 2026-11-22T06:30:00.000Z"
    status, _, lines = witness.post(log.request(290, 290, text))
    checks.check("the same size with an extension line", cosigned(log.text(290, text), lines, witness.vkey) is not None)
    checks.check("… which is part of what is signed", cosigned(log.text(290), lines, witness.vkey) is None)
    checks.check("another log has a state of its own", witness.post(other.request(0, 5))[0] == 200)

    forged, good = log.fork(280, 300), log.request(290, 300)
    unknown = Log("foreign.example/unknown").grow(5)
    for what, status, body in (
        ("an empty body", 400, ""),
        ("no old size", 400, good.partition("\n")[2]),
        ("an old size with a zero in front", 400, good.replace("old 290", "old 0290")),
        ("64 lines of proof", 400, log.request(290, 300, hashes=[bytes(32)] * 64)),
        ("an old size above the new one", 400, log.request(299, 298)),
        ("an unknown log", 404, unknown.request(0, 5)),
        ("an unknown key", 403, stranger.request(290, 300)),
        ("an altered text", 403, good.replace("\n300\n", "\n301\n")),
        ("another old size", 409, log.request(280, 300)),
        ("an older checkpoint", 409, log.request(270, 280)),
        ("the same size with another root", 409, forged.request(290, 290)),
        ("another history", 422, forged.request(290, 300)),
        ("no proof", 422, log.request(290, 300, hashes=[])),
        ("a proof with a hash too many", 422, log.request(290, 300, hashes=[*proof(290, log.leaves), bytes(32)])),
    ):
        found, kind, said = witness.post(body)
        checks.check(f"{what}: {status}", found == status, f"{found} {said}")
        if status == 409:
            tells = (kind, said) == ("text/x.tlog.size", "290\n")
            checks.check(f"… {what}: the size is told unless it is the same", tells == (what != "the same size with another root"))
    checks.check("after all of that it is where it was", witness.post(good.replace("old 290", "old 0"))[2] == "290\n")


def vectors(checks):
    frozen = json.loads((ROOT / "tests" / "vectors" / "cosignature_v1.json").read_text(encoding="utf-8"))
    for one in frozen["cosignatures"]:
        text = one["note"].rpartition("\n\n")[0] + "\n"
        vkey = frozen["keys"][one["signer"]]["public"]
        checks.check(f"a frozen cosignature: {one['name']}", cosigned(text, one["line"], vkey) == one["time"])
