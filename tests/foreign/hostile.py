"""Hostile text in every string that a caller controls (A-13), and where it comes out again: the audit log and its views, the
vault's own log, syslog, OCSF, the HTML report, and the answers themselves. One entry stays one entry, of plain characters.
"""

import json
import re
import unicodedata

import grpc
import jsonschema

import report
import sinks
from client import Answer, Client, Code
from vault import DOMAIN, Authority

MARK = "evilmark"
TEXTS = {
    "a line feed": f"{MARK}\n2026-11-22T09:00:00.000000Z  INFO cloakroom::server: forged",
    "carriage return and line feed": f"{MARK}\r\nforged",
    "colours and a cleared screen": f"\x1b[31m{MARK}\x1b[2J\x1b]0;title\x07",
    "NUL": f"{MARK}\x00forged",
    "right to left": f"\u202e{MARK}\u2066",
    "other ends of lines": f"{MARK}\u2028\u2029\x85\x0b\x0c",
    "64 KiB": MARK * 8192,
    "64 KiB of line feeds": MARK + "\n" * 65536,
    "the end of a JSON text": f'{MARK}"}}\n{{"sequence":0,"log_id":"forged"}}',
    "the end of a syslog message": f'{MARK}"] <110>1 - - - - - -',
    "markup": f"<script>alert('{MARK}')</script><img src=//{MARK}.example onerror=1>&amp;",
    "a template": f"{MARK}${{jndi:ldap://x}}%s%n{{{{7*7}}}}`id`$(id)",
    "a formula": f"=cmd|' /C calc'!A0 {MARK}",
    "a path": f"..\\..\\{MARK}%00|/etc/passwd",
    "a character of four bytes": f"{MARK}\U0001f4a9\U000e0041",
}
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z +(ERROR|WARN|INFO|DEBUG|TRACE) cloakroom[a-z0-9_:]*: .*")


def is_plain(text):
    """Whether a text stays on its line and in its place, in any terminal and any reader of lines."""
    return all(unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") for character in text)


def calls(client, callers, token, handle, text):
    """Every call with the text in one of its strings, by what it is in."""
    gateway, payments, operator, auditor = callers
    yield "Tokenize's scope", lambda: client.tokenize(gateway, text, b"1")
    yield "Tokenize's request id", lambda: client.tokenize(gateway, "pan", b"1", request_id=text)
    yield "Tokenize's subject", lambda: client.tokenize(gateway, "pan", client.item(b"1", subject=text))
    yield "Tokenize's value", lambda: client.tokenize(gateway, "pan", text.encode()[:65536])
    yield "Detokenize's scope", lambda: client.detokenize(payments, text, token)
    yield "Detokenize's purpose", lambda: client.detokenize(payments, "pan", token, purpose=text)
    yield "Detokenize's token", lambda: client.detokenize(payments, "pan", text)
    yield "Detokenize's request id", lambda: client.detokenize(payments, "pan", token, request_id=text)
    yield "InspectTokens' scope", lambda: client.inspect(operator, text, token)
    yield "InspectTokens' token", lambda: client.inspect(operator, "pan", text)
    yield "InspectTokens' handle", lambda: client.inspect(operator, "pan", handles=[text])
    yield "RenewTokens' scope", lambda: client.renew(operator, text, token, seconds=3600)
    yield "RenewTokens' token", lambda: client.renew(operator, "pan", text, seconds=3600)
    yield "RenewTokens' request id", lambda: client.renew(operator, "pan", token, seconds=3600, request_id=text)
    yield "RevokeTokens' scope", lambda: client.revoke(operator, text, token)
    yield "RevokeTokens' token", lambda: client.revoke(operator, "pan", text)
    yield "RevokeTokens' handle", lambda: client.revoke(operator, "pan", handles=[text])
    yield "RevokeTokens' reason", lambda: client.revoke(operator, "pan", token, reason=text)
    yield "RevokeTokens' request id", lambda: client.revoke(operator, "pan", token, request_id=text)
    for name in ("caller", "scope", "handle", "token", "purpose", "trace_id", "request_id"):
        wanted = {name: text} | ({"scope": "pan"} if name == "token" else {})
        request = client.a.QueryEventsRequest(filter=client.a.AuditFilter(**wanted))
        yield f"QueryEvents' {name}", lambda: auditor.audit.QueryEvents(request, timeout=60)
    request = client.a.QueryEventsRequest(page_token=text)
    yield "QueryEvents' page token", lambda: auditor.audit.QueryEvents(request, timeout=60)
    ascii_text = "".join(c for c in text if " " <= c <= "~")[:4000]
    for name in ("traceparent", "tracestate", "authorization", f"x-{MARK}"):
        metadata = [(name, ascii_text)]
        yield f"metadata {name}", lambda: client.detokenize(payments, "pan", token, metadata=metadata)
    metadata = [(f"{MARK}-bin", text.encode()[:4000])]
    yield "binary metadata", lambda: client.detokenize(payments, "pan", token, metadata=metadata)


def words_of(event):
    """Every text in an event, and every one of its lists."""
    for field, value in event.ListFields():
        if field.type == field.TYPE_STRING:
            yield from ((field.name, text) for text in (value if not isinstance(value, str) else [value]))
        elif field.type == field.TYPE_MESSAGE and not field.message_type.full_name.startswith("google."):
            yield from words_of(value)


def ask(checks, client):
    """Says everything, and what is wrong with the answers."""
    wrong, asked, refused = [], 0, 0
    for what, text in TEXTS.items():
        callers = [client.new(role) for role in ("gateway", "payments", "operator", "auditor")]
        issued = client.tokenize(callers[0], "pan", b"4111111111111111").results[0].issued
        for where, call in calls(client, callers, issued.token, issued.handle, text):
            asked += 1
            try:
                answer = str(call())
            except grpc.RpcError as error:
                refused += 1
                answer = str(Answer(error))
                if error.code() in (Code.INTERNAL, Code.UNKNOWN, Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED):
                    wrong.append(f"{what} in {where}: {answer[:200]}")
            # What is asked about comes back in answers to an auditor, from events; nothing else does.
            if MARK in answer and not where.startswith("QueryEvents"):
                wrong.append(f"{what} in {where} is repeated: {answer[:200]}")
        shown = client.detokenize(callers[1], "pan", issued.token).results[0].value
        if shown != b"4111111111111111":
            wrong.append(f"after {what} a good caller gets {shown!r}")
    client.is_(f"hostile text: {asked} calls, {refused} of them refused, and none repeats it", wrong, [])
    return asked


def certificates(checks, vault, process):
    """In the name of a caller: such a certificate is none."""
    from client import Caller

    refused = []
    authority = Authority.read(vault.path / "pki")
    # What is left of some without the characters that a certificate can't have is a name like any other.
    names = {what: "".join(c for c in text if c.isascii())[:3000] for what, text in TEXTS.items()}
    names = {what: name for what, name in names.items() if name != MARK}
    for what, name in names.items():
        caller = Caller(process, authority.sign(f"spiffe://{DOMAIN}/gateway/{name}"))
        try:
            Client.tokenize(Client(checks, vault, process), caller, "pan", b"1")
        except grpc.RpcError as error:
            refused.append(error.code())
        else:
            checks.check(f"hostile text: in a SPIFFE ID: {what}", False, "it comes in")
    checks.check(f"hostile text: {len(names)} times in a SPIFFE ID", refused == [Code.UNAVAILABLE] * len(names), str(refused))


def run(checks, binary, vault, directory):
    directory.mkdir()
    authority = Authority()
    ca = directory / "siem-ca.pem"
    ca.write_bytes(authority.pem)
    server = authority.sign_server("127.0.0.1").write(directory, "siem")
    own = authority.sign("spiffe://siem.example/vault").write(directory, "vault")
    own[1].chmod(0o600)
    listener, messages = sinks.syslog(*server, ca)
    store = sinks.Store()
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    text = sinks.table("syslog", "syslog", address, ca=ca, certificate=own[0], private_key=own[1])
    text += sinks.table("ocsf", "otlp", f"http://127.0.0.1:{store.server_port}", format="ocsf")
    with open(vault.path / "cloakroom.toml", "a", encoding="utf-8") as file:
        file.write(text)
    # The vault's own log at its most talkative.
    try:
        with vault.running({"CLOAKROOM_LOG": "trace"}) as process:
            client = Client(checks, vault, process)
            asked = ask(checks, client)
            certificates(checks, vault, process)
            come_out(checks, client, vault, process, messages, store.seen, asked)
    finally:
        listener.close()
    log = (vault.path / "serve.log").read_text(encoding="utf-8").splitlines()
    odd = [line for line in log if not LINE.fullmatch(line) or MARK in line or not is_plain(line)]
    checks.check(f"hostile text: not in the vault's own log of {len(log)} lines", log and not odd, str(odd[:3])[:500])


def come_out(checks, client, vault, process, messages, records, asked):
    printed = report.run(vault, process, "query", "--limit", "0", "--output", "json").splitlines()
    events = [json.loads(line) for line in printed]
    checks.check("hostile text: one line of JSON for each event", len(events) >= asked / 2 and all(map(is_plain, printed)))
    lines = report.run(vault, process, "query", "--limit", "0", "--output", "text").split("\n")
    good = [line for line in lines if is_plain(line)]
    # Behind the last line feed is nothing; and the log grows meanwhile, by each question too.
    later = report.run(vault, process, "query", "--limit", "0", "--output", "json").splitlines()
    right = len(events) < len(lines) - 1 <= len(later)
    checks.check("hostile text: one line of text for each event", right, f"{len(events)}, {len(lines)}, {len(later)}")
    checks.check("hostile text: of plain characters", len(good) == len(lines))
    found, token = [], ""
    while not found or token:
        page = client.events(page_size=1000, page_token=token)
        found, token = found + list(page.events), page.next_page_token
    words = [(name, word) for event in found for name, word in words_of(event)]
    odd = [(name, word[:80]) for name, word in words if not is_plain(word) or len(word) > 4096]
    checks.check(f"hostile text: {len(words)} texts of {len(found)} events are plain and short", not odd, str(odd[:5]))
    named = {name for name, word in words if MARK in word}
    checks.check("hostile text: in no event", not named, str(named))
    callers = sum("spiffe://" in word for _, word in words)
    checks.check("hostile text: the search finds what is there", callers > 10, str(callers))
    page = report.run(vault, process, "report", "--output", "html")
    read = report.Page(page)
    plain = all(is_plain(line) for line in page.split("\n"))
    checks.check("hostile text: not in the report's page", plain and not read.suspicious and not read.tags["script"])
    count = len(found)
    got = messages.first(count)
    sent = [sinks.MESSAGE.fullmatch(message) for message in got]
    bodies = [json.loads(message["text"]) for message in sent if message]
    right = all(sent) and [body["sequence"] for body in bodies] == list(range(count))
    checks.check("hostile text: one message of syslog for each event", right)
    validator = jsonschema.Draft202012Validator(json.loads(sinks.SCHEMA.read_text(encoding="utf-8")))
    objects = [json.loads(record.body.string_value) for _, record in records.first(count)]
    right = all(validator.is_valid(one) for one in objects)
    right = right and [one["metadata"]["sequence"] for one in objects] == list(range(count))
    checks.check("hostile text: one record of OCSF for each event", right)
