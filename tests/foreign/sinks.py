"""Where audit events go: a receiver of syslog over TLS, a real OpenTelemetry collector, and a store of OTLP behind it.

Nothing here is the vault's: syslog is read as RFC 5424 and RFC 5425 define it, OTLP is decoded with the protos that
OpenTelemetry publishes, the collector is rotel, and OCSF is held against the schema of the class by jsonschema.
"""

import contextlib
import gzip
import http.server
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path

import jsonschema
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2

from client import Client
from vault import PATIENCE, ROOT, Authority, left_out

try:
    import rotel
except ImportError:
    # It is published for some kinds of machines only; requirements.txt says for which.
    rotel = None

SCHEMA = ROOT / "tests" / "vectors" / "ocsf_api_activity_v1_3_0.json"

# RFC 5424, section 6, as far as a message without a byte order mark goes.
MESSAGE = re.compile(
    rb"<(?P<priority>\d{1,3})>1 (?P<time>\S{1,32}) (?P<host>[!-~]{1,255}) (?P<app>[!-~]{1,48}) (?P<process>[!-~]{1,128})"
    rb' (?P<id>[!-~]{1,32}) (?P<data>(?:\[[^ =\]"]{1,32}(?: [^ =\]"]{1,32}="(?:[^"\\\]]|\\.)*")*\])+) (?P<text>[ -~]*)'
)


class Seen:
    """What came, in order, and a way to wait for more."""

    def __init__(self):
        self.items, self.changed = [], threading.Condition()

    def add(self, items):
        with self.changed:
            self.items.extend(items)
            self.changed.notify_all()

    def until(self, there):
        with self.changed:
            self.changed.wait_for(lambda: there(self.items), PATIENCE)
            return list(self.items)

    def first(self, count):
        return self.until(lambda items: len(items) >= count)[:count]


def syslog(certificate, key, authorities):
    """A receiver: its port, and what it has seen. It wants to see a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authorities)
    context.verify_mode = ssl.CERT_REQUIRED
    listener, seen = socket.create_server(("127.0.0.1", 0)), Seen()

    def serve():
        while True:
            try:
                connection = context.wrap_socket(listener.accept()[0], server_side=True)
            except OSError:
                return
            threading.Thread(target=read, args=(connection,), daemon=True).start()

    def read(connection):
        with connection.makefile("rb") as stream:
            while length := frame_length(stream):
                seen.add([stream.read(length)])

    threading.Thread(target=serve, daemon=True).start()
    return listener, seen


def frame_length(stream):
    """RFC 5425, section 4.3: digits, the first of them not 0, and a space. 0 at the end of the stream."""
    digits = b""
    while (byte := stream.read(1)) not in (b" ", b""):
        digits += byte
    if not re.fullmatch(rb"[1-9]\d*", digits):
        return 0
    return int(digits)


class Store(http.server.ThreadingHTTPServer):
    """Takes OTLP over HTTP and keeps the log records, each with its resource."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Post)
        self.seen = Seen()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Post(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        request = logs_service_pb2.ExportLogsServiceRequest.FromString(body)
        good = self.path == "/v1/logs" and self.headers["content-type"] == "application/x-protobuf"
        self.send_response(200 if good else 400)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()
        records = [(r.resource, record) for r in request.resource_logs for s in r.scope_logs for record in s.log_records]
        self.server.seen.add(records if good else [])

    def log_message(self, *_):
        pass


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


def collector(directory, store):
    """A real one, which sends on to `store`: its port for OTLP over HTTP, and its process."""
    port, other = free_port(), free_port()
    agent = Path(rotel.__file__).parent / "rotel-agent"
    command = [str(agent), "start", "--otlp-http-endpoint", f"127.0.0.1:{port}", "--otlp-grpc-endpoint", f"127.0.0.1:{other}"]
    command += ["--exporter", "otlp", "--otlp-exporter-protocol", "http"]
    command += ["--otlp-exporter-endpoint", f"http://127.0.0.1:{store.server_port}"]
    command += ["--pid-file", str(directory / "rotel.pid"), "--log-file", str(directory / "rotel.log")]
    # It is linked to the library of the Python that it was packed for, wherever that one has it.
    paths = [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH")]
    environment = os.environ | {"LD_LIBRARY_PATH": ":".join(path for path in paths if path)}
    log = open(directory / "rotel.out", "wb")
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    # It listens, or has ended: nothing in between lasts.
    while process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return port, process
    left_out(f"the collector does not run here: {(directory / 'rotel.out').read_text(errors='replace').strip()}")
    return None, None


def table(name, kind, address, **settings):
    lines = [f'name = "{name}"', f'type = "{kind}"', f'address = "{address}"']
    return "\n".join(["\n[[audit.sinks]]", *lines, *(f'{key} = "{value}"' for key, value in settings.items())]) + "\n"


def attributes(holder):
    return {one.key: one.value.string_value or one.value.int_value for one in holder.attributes}


def uid(record):
    return attributes(record)["log.record.uid"]


def run(checks, vault, directory):
    directory.mkdir()
    authority = Authority()
    ca = directory / "siem-ca.pem"
    ca.write_bytes(authority.pem)
    server = authority.sign_server("127.0.0.1").write(directory, "siem")
    client = authority.sign("spiffe://siem.example/vault").write(directory, "vault")
    client[1].chmod(0o600)
    listener, messages = syslog(*server, ca)
    direct, behind = Store(), Store()
    port, process = collector(directory, behind) if rotel else (None, None)
    try:
        here = "http://127.0.0.1"
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        sinks = table("syslog", "syslog", address, ca=ca, certificate=client[0], private_key=client[1])
        sinks += table("direct", "otlp", f"{here}:{direct.server_port}", format="ocsf")
        if process:
            sinks += table("through", "otlp", f"{here}:{port}/v1/logs")
        elif not rotel:
            left_out("the collector, which is not published for this kind of machine")
        with open(vault.path / "cloakroom.toml", "a", encoding="utf-8") as file:
            file.write(sinks)
        with vault.running() as running:
            compare(checks, Client(checks, vault, running), messages, direct.seen, behind.seen if process else None)
    finally:
        if process:
            process.terminate()
            process.wait(PATIENCE)
        listener.close()


def compare(checks, whole, messages, direct, behind):
    gateway, payments = whole.new("gateway"), whole.new("payments")
    for number in range(300):
        issued = whole.tokenize(gateway, "pan", b"a value", b"another").results
        if number % 50 == 0:
            whole.detokenize(payments, "pan", *(result.issued.token for result in issued))
    last = whole.events(newest_first=True, page_size=1).events[0].sequence
    asked, token = [], ""
    while not asked or token:
        page = whole.events(page_size=1000, page_token=token)
        asked, token = asked + list(page.events), page.next_page_token
    asked = [event for event in asked if event.sequence <= last]
    count = last + 1
    checks.check("the auditor gets the whole log", [event.sequence for event in asked] == list(range(count)))

    sent = [MESSAGE.fullmatch(message) for message in messages.first(count)]
    checks.check("syslog: each message is one of RFC 5424", all(sent))
    bodies = [json.loads(message["text"]) for message in sent]
    same(checks, "syslog", bodies, asked, whole.e)
    checks.check("syslog: facility 13", {int(message["priority"]) // 8 for message in sent} == {13})
    checks.check(
        "syslog: MSGID is the action", all(m["id"].decode() == b["action"] for m, b in zip(sent, bodies, strict=True))
    )

    records = direct.first(count)
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    objects = [json.loads(record.body.string_value) for _, record in records]
    wrong = [error.message for one in objects for error in validator.iter_errors(one)]
    checks.check("OCSF: every event is of the class", not wrong, str(wrong[:3]))
    checks.check("OCSF: in order", [one["metadata"]["sequence"] for one in objects] == list(range(count)))
    checks.check(
        "OTLP: a record has the time of its event",
        all(record.time_unix_nano == one["time"] * 1_000_000 for (_, record), one in zip(records, objects, strict=True)),
    )
    checks.check("OTLP: a record has a severity", all(record.severity_number in range(1, 25) for _, record in records))
    if behind:
        through(checks, whole, behind, asked)


def through(checks, whole, behind, asked):
    """What comes out of a collector, which sends on in batches of its own and promises no order."""
    wanted = {f"{whole.log_id}/{event.sequence}" for event in asked}
    records = behind.until(lambda items: wanted <= {uid(record) for _, record in items})
    found = {uid(record): json.loads(record.body.string_value) for _, record in records}
    checks.check("through a collector: every event arrives", wanted <= found.keys())
    bodies = sorted((found[name] for name in wanted), key=lambda body: body["sequence"])
    same(checks, "through a collector", bodies, asked, whole.e)
    checks.check(
        "through a collector: the resource says who sends",
        {attributes(resource)["service.name"] for resource, _ in records} == {"cloakroom"},
    )


def same(checks, what, bodies, asked, vocabulary):
    """What was sent is what the auditor gets, field by field where they are the same kind of thing."""
    texts = "log_id reason caller scope purpose trace_id peer_address node detail".split()
    numbers = "sequence requested succeeded".split()
    different = []
    for body, event in zip(bodies, asked, strict=True):
        different += [name for name in texts if body.get(name, "") != getattr(event, name)]
        different += [name for name in numbers if body[name] != getattr(event, name)]
        different += ["handles"] * (body.get("handles", []) != [handle.hex() for handle in event.handles])
        different += ["salt"] * (body.get("salt", "") != event.salt.hex())
        different += ["action"] * ("ACTION_" + body["action"] != vocabulary.Action.Name(event.action))
        different += ["outcome"] * ("OUTCOME_" + body["outcome"] != vocabulary.Outcome.Name(event.outcome))
    checks.check(f"{what}: every event, in order, as the auditor gets it", not different, str(different[:5]))


if __name__ == "__main__":
    sys.exit("this is a part of suite.py")
