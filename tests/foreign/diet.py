"""A hostile diet (I-02): messages of every rpc with anomalies of the wire format, from a client that has only `proto/`.

diet.py HOME ADDRESS SECRETS    HOME: a running vault's directory; SECRETS: where the tokens and values go that it used

Each message is sent twice, and then once more as an orderly encoder writes it. All three must be answered alike, with a
status that docs/errors.md lists for what it is; nothing of the request may stand in an answer that says no; and each
call must be in the log. `SEED` repeats a run. `EXAMPLES` is the number of messages of each rpc, by default 40.
"""

import collections
import os
import random
import re
import sys
import tempfile
from pathlib import Path

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import vault as vaults
import wire
from suite import Checks
from vault import DOMAIN, PATIENCE, ROOT

EXAMPLES = int(os.environ.get("EXAMPLES", "40"))
SEED = int(os.environ.get("SEED") or random.SystemRandom().getrandbits(64))
Code = grpc.StatusCode
CARD = b"evilmark-value-4111111111111111"
# What would tell of the inside, of a request, or of what is stored.
LEAKS = re.compile(
    rb"evil|EVIL|4111 ?1111|panick|unwrap|RUST_|\.rs\b|src/|prost|tonic|[Rr]ocks|[Cc]edar|cloakroom::"
    rb"|(ize|Tokens|Events|Checkpoint|Proof)(Request|Item)\b"
    rb"|wire ?type|varint|UTF-8|pan_[0-9A-Za-z]{33}|[0-9a-f]{40}"
)
ROLES = {
    "Tokenize": "gateway",
    "StreamTokenize": "gateway",
    "Detokenize": "payments",
    "StreamDetokenize": "payments",
    "InspectTokens": "operator",
    "RenewTokens": "operator",
    "RevokeTokens": "operator",
}


class Running(vaults.Process):
    """A vault that somebody else started."""

    def __init__(self, vault, address):
        self.vault, self.address = vault, address
        self.ca = (vault.path / "pki" / "ca.pem").read_bytes()


class Caller:
    """A caller of its own for each rpc, so that the log says of each how many calls it has."""

    def __init__(self, diet, role):
        self.identity = diet.vault.new_identity(role)
        self.channel = diet.process.channel(self.identity)
        self.calls = 0


class Diet:
    """One vault, what it was asked, and what it said."""

    def __init__(self, checks, vault, process):
        from client import Client

        self.checks, self.vault, self.process = checks, vault, process
        self.good = Client(checks, vault, process)
        self.callers = {}
        self.last = ""
        # Reason and code, by what was wrong.
        self.answers = collections.Counter()
        self.texts = set()
        text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8").split("\n## Before any call", 1)[0]
        self.documented = set(re.findall(r"^\| `([A-Z_]+)` \| ([A-Z_]+) \|", text, re.MULTILINE))
        self.gateway, self.payments = self.good.new("gateway"), self.good.new("payments")
        issue = lambda count: [
            result.issued for result in self.good.tokenize(self.gateway, "pan", *[CARD] * count).results
        ]
        live, revoked = issue(6), issue(4)
        self.tokens = [issued.token for issued in live]
        self.handles = [issued.handle for issued in live]
        self.to_revoke = [issued.token for issued in revoked]
        # Numbers that a message may name shall be in the log already, and stay there.
        for _ in range(8):
            issue(1)

    def hints(self, descriptor, field):
        """Good values of a field, so that most messages get beyond the first check. `None`: seldom given."""
        pool = self.to_revoke if descriptor.name == "RevokeTokensRequest" else self.tokens
        names = {
            "scope": ["pan"] * 8 + ["nosuch", "PAN", "pan/../ssn", "ssn"],
            "value": [CARD, b"", b"\0evilmark", CARD * 40],
            "tokens": [*pool, *pool, "pan_evil", self.handles[0]],
            "purpose": ["refund"] * 8 + ["evilmark;", "9" * 20],
            "reveal": [0, 0, 1, 2, 7],
            "seconds": [60, 3600, 0, 1 << 40],
            "nanos": [0, 0, 1_000_000, 2_000_000_000],
            "max_uses": [0],
            "page_size": [0, 1, 20, 1000, 1001],
            "newest_first": [0, 1],
            "from_sequence": [0, 1, 2],
            "sequence": [0, 1, 2],
            "tree_size": [0, 3],
            "from_size": [1, 2],
            "to_size": [2, 3],
            "service": ["", "cloakroom.v1.TokenService", "evilmark"],
            "list_services": [""],
            "file_containing_symbol": ["cloakroom.v1.TokenService", "evilmark.Symbol"],
            "file_by_filename": ["cloakroom/v1/token_service.proto", "../evilmark"],
            "all_extension_numbers_of_type": ["evilmark.Type"],
        }
        if field.name in ("items", "batch", "filter", "ttl"):
            return ()
        rare = {"handles": self.handles, "handle": self.handles, "token": self.tokens, "action": [1, 2, 6, 99]}
        if field.name in rare:
            return rare[field.name] if random_of(field, descriptor) else None
        return names.get(field.name)

    # === asking ===

    def caller(self, path, stranger):
        key = (path, stranger)
        if key not in self.callers:
            role = "stranger" if stranger else ROLES.get(path.rpartition("/")[2], "auditor")
            self.callers[key] = Caller(self, role)
        return self.callers[key]

    def call(self, rpc, caller, bodies, metadata):
        """What became of a call: answers, and the error at its end."""
        settings = {"timeout": PATIENCE, "metadata": metadata}
        answers, error = [], None
        caller.calls += len(bodies) if not rpc.streams else 0
        try:
            if rpc.streams:
                send = caller.channel.stream_stream(rpc.path)
                for answer in send(iter(bodies), **settings):
                    answers.append(answer)
            elif rpc.answers:
                error = self.opened(caller.channel.unary_stream(rpc.path)(bodies[0], **settings))
            else:
                answers.append(caller.channel.unary_unary(rpc.path)(bodies[0], **settings))
        except grpc.RpcError as failed:
            error = failed
        if rpc.streams:
            caller.calls += len(answers) + (error is not None)
        return answers, error

    def opened(self, call):
        """Whether a stream of answers that has no end was opened; its error if not."""
        # A refusal is one block of headers, which is all trailers then; what is opened has headers of its own, a date.
        if call.initial_metadata():
            call.cancel()
            return None
        return call if call.code() != Code.OK else None

    def outcome(self, rpc, answers, error):
        """What must be the same each time, and says nothing of when."""
        items = []
        for answer in answers:
            message = rpc.response.FromString(answer)
            results = getattr(getattr(message, "batch", message), "results", ())
            # A batch's own outcome, item by item; of other messages, that there was one.
            items.append(tuple(self.item(result) for result in results))
        if error is None:
            return "OK", "", None, tuple(items)
        from client import Answer

        answer = Answer(error)
        reason = answer.info.reason if answer.info else ""
        said = [(answer.message or "").encode()]
        said += [value for key, value in error.trailing_metadata() or () if isinstance(value, bytes)]
        said += [value.encode() for _, value in error.trailing_metadata() or () if isinstance(value, str)]
        for text in said:
            self.keeps_quiet(text, rpc)
        self.texts.add((reason, answer.message))
        self.last = answer.message
        self.answers[reason, answer.code.name] += 1
        fields = tuple(answer.violations) if answer.violations is not None else None
        return answer.code.name, reason, fields, tuple(items)

    def item(self, result):
        if not result.HasField("error"):
            return "OK"
        from client import item_error

        self.keeps_quiet(result.error.SerializeToString(), "an item")
        code, reason = item_error(result)
        name = next(one.name for one in Code if one.value[0] == code)
        self.answers[reason, name] += 1
        return f"{name} {reason}"

    def keeps_quiet(self, text, where):
        found = LEAKS.search(text)
        assert found is None, f"{where}: {found.group()!r} stands in an answer that says no: {text!r}"

    # === what must hold ===

    def judge(self, rpc, bodies, outcome):
        code, reason, _, items = outcome
        at = len(items)
        good = [wire.decodes(body, rpc.request.DESCRIPTOR) for body in bodies]
        assert all(good[:at]), f"{rpc}: a message that is none was answered"
        if code == "OK":
            # Reflection ends its stream without a word at what is no message.
            done = at == len(bodies) or rpc.answers and not rpc.streams
            ended = at < len(bodies) and not rpc.ours and (not good[at] or rpc.too_long(bodies[at]))
            assert all(good) and done or ended, f"{rpc}: {outcome}"
            return
        if not rpc.ours and (reason, code, self.last) == ("", "NOT_FOUND", "not found"):
            # Health and reflection of what there is not.
            return
        if rpc.path == "/grpc.health.v1.Health/List":
            # It is refused before its message is read.
            assert (reason, code) == ("NOT_IMPLEMENTED", "UNIMPLEMENTED"), f"{rpc}: {outcome}"
            return
        assert (reason, code) in self.documented, f"{rpc}: {outcome} {self.last} is not in docs/errors.md"
        assert code not in ("INTERNAL", "UNAVAILABLE", "UNKNOWN", "DATA_LOSS", "ABORTED"), f"{rpc}: {outcome}"
        if reason == "MALFORMED_REQUEST":
            # Reflection has no other word for a message that asks for nothing.
            assert not good[at] or not rpc.ours, f"{rpc}: refused as no message, and is one"
        else:
            assert good[at], f"{rpc}: {reason}, but is no message"

    def eat(self, rpc, bodies, metadata, stranger):
        caller = self.caller(rpc.path, stranger)
        ask = lambda bodies, metadata: self.outcome(rpc, *self.call(rpc, caller, bodies, metadata))
        first, second = ask(bodies, metadata), ask(bodies, metadata)
        assert first == second, f"{rpc}: the same twice: {first} and {second}"
        self.judge(rpc, bodies, first)
        self.answers["messages", "in all"] += len(bodies)
        if first[0] == "OK":
            self.answers["OK", "calls"] += 1
        orderly = [rpc.orderly(body) for body in bodies]
        if None not in orderly:
            third = ask(orderly, ())
            assert third == first, f"{rpc}: {first} as it was sent, {third} as an orderly encoder writes it"

    def all_in_the_log(self):
        """Every call of every caller, by itself or counted."""
        for (path, stranger), caller in self.callers.items():
            if not path.startswith("/cloakroom."):
                continue

            def recorded(caller=caller):
                events, page = [], ""
                while True:
                    answer = self.good.events(caller=caller.identity.id, page_size=1000, page_token=page)
                    events += answer.events
                    page = answer.next_page_token
                    if not page:
                        return sum(max(event.count, 1) for event in events)

            what = f"I-02: each call is in the log: {path}{', from a stranger' if stranger else ''}, {caller.calls}"
            self.good.until(what, lambda: recorded() >= caller.calls)
            self.good.is_(f"{what}: and no other", recorded(), caller.calls)

    def served(self):
        [token] = self.good.issue(self.gateway, "pan", CARD)
        return self.good.detokenize(self.payments, "pan", token).results[0].value == CARD


def random_of(field, descriptor):
    """Fields that make other things of a message: in one of the two messages that have them."""
    return descriptor.name in ("InspectTokensRequest", "AuditFilter") or field.name == "action"


class Rpc:
    """A method as a descriptor has it."""

    def __init__(self, method, service=None):
        self.path = f"/{service or method.containing_service.full_name}/{method.name}"
        self.request, self.response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        self.streams, self.answers = method.client_streaming, method.server_streaming
        self.ours = self.path.startswith("/cloakroom.")

    def __str__(self):
        return self.path

    def too_long(self, body):
        """Health and reflection ask for names."""
        return not self.ours and len(body) > 4096

    def orderly(self, body):
        """The same message in canonical form, as another decoder understands it. `None` if it does not."""
        if not wire.decodes(body, self.request.DESCRIPTOR) or self.too_long(body):
            return None
        message = self.request()
        try:
            message.ParseFromString(body)
        except DecodeError:
            # It takes keys and lengths of five bytes at most.
            return None
        message.DiscardUnknownFields()
        return message.SerializeToString(deterministic=True)


def rpcs():
    """All there are, from the descriptors. Reflection's v1 has the messages of v1alpha under another name."""
    from cloakroom.v1 import audit_service_pb2, token_service_pb2

    found = []
    for module in (token_service_pb2, audit_service_pb2, health_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            found += [Rpc(method) for method in service.methods]
    for service in reflection_pb2.DESCRIPTOR.services_by_name.values():
        found += [Rpc(method, "grpc.reflection.v1.ServerReflection") for method in service.methods]
    return found


METADATA = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["x-evil-bin", "traceparent-bin", "cloakroom-made-bin"]), st.binary(max_size=64)),
        st.tuples(
            st.sampled_from(["x-unknown", "traceparent", "authorization", "cloakroom-made", "grpc-retry-pushback-ms"]),
            st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=60),
        ),
        st.just(("traceparent", "00-" + "0" * 32 + "-" + "f" * 16 + "-ff")),
    ),
    max_size=4,
).map(tuple)
# Two of these are more than all headers of a call may be together.
LARGE = ("x-large", "evilmark" * 1024)


def feed(diet, rpc):
    descriptor = rpc.request.DESCRIPTOR
    most = 3 if rpc.streams else 1
    bodies = st.lists(wire.bodies(descriptor, diet.hints), min_size=1, max_size=most)

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink] if EXAMPLES >= 200 else [Phase.generate],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(bodies, METADATA, st.sampled_from([False] * 7 + [True]), st.sampled_from([0] * 7 + [1]))
    def run(bodies, metadata, stranger, large):
        diet.eat(rpc, bodies, metadata + (LARGE,) * large, stranger and rpc.ours)

    if rpc.path.endswith("/Tokenize"):
        # Luck alone does not always lead to a policy's no.
        good = rpc.request(scope="pan", items=[{"value": CARD}]).SerializeToString(deterministic=True)
        diet.eat(rpc, [good], (), stranger=True)
    run()
    diet.checks.check(f"I-02: {rpc}", True)


def unknown_methods(diet):
    """What is no method, with any bytes."""
    caller = diet.caller("/cloakroom.v1.AdminService/Unseal", False)
    for path in ("/cloakroom.v1.AdminService/Unseal", "/cloakroom.v1.TokenService/tokenize", "/evilmark/x", "/x"):
        for body in (b"", b"\xff" * 100, wire.nested(1000)):
            caller.calls += 1
            try:
                caller.channel.unary_unary(path)(body, timeout=PATIENCE)
                error = None
            except grpc.RpcError as failed:
                error = failed
            found = diet.outcome(path, [], error)
            diet.good.is_(f"I-02: UNIMPLEMENTED: {path}", found[:2], ("UNIMPLEMENTED", "NOT_IMPLEMENTED"))


def too_much_metadata(diet):
    """More than 16 KiB of headers are no call: HTTP says so, in nobody's words, and the connection goes on."""
    rpc = next(rpc for rpc in rpcs() if rpc.path.endswith("/InspectTokens"))
    caller = diet.caller(rpc.path, False)
    body = rpc.request(scope="pan", tokens=[diet.tokens[0]]).SerializeToString()
    for attempt in range(3):
        try:
            caller.channel.unary_unary(rpc.path)(body, timeout=PATIENCE, metadata=(LARGE, LARGE))
            said = "it was answered"
        except grpc.RpcError as error:
            # Which of the two a client sees, the status or the end of the stream, is its own affair.
            said = "431" if "431" in error.details() or "RST_STREAM" in error.details() else str(error)
            assert not LEAKS.search(error.details().encode())
        diet.good.is_(f"I-02: metadata of more than 16 KiB, attempt {attempt + 1}", said, "431")
    answers, error = diet.call(rpc, caller, [body], (LARGE,))
    diet.good.is_("I-02: metadata of 8 KiB", diet.outcome(rpc, answers, error)[0], "OK")


def depths(diet):
    """Where nesting ends: at one number, and each deeper message is refused, however deep."""
    rpc = next(rpc for rpc in rpcs() if rpc.path.endswith("/InspectTokens"))
    caller = diet.caller(rpc.path, False)
    base = rpc.request(scope="pan", tokens=[diet.tokens[0]]).SerializeToString()
    codes = []
    for depth in [*range(90, 111), 1000, 10_000, 1_000_000]:
        answers, error = diet.call(rpc, caller, [base + wire.nested(depth, 99)], ())
        codes.append(diet.outcome(rpc, answers, error)[0])
    last = codes.index("INVALID_ARGUMENT")
    orderly = codes == ["OK"] * last + ["INVALID_ARGUMENT"] * (len(codes) - last)
    diet.checks.check("I-02: groups nest up to one depth, and no deeper", orderly and 8 <= last <= 12, str(codes))


def control():
    """The reading that judges knows what is a message: else it would find no fault."""
    from cloakroom.v1.token_service_pb2 import TokenizeRequest

    good = TokenizeRequest(scope="pan", items=[{"value": b"1"}]).SerializeToString()
    for body, holds in [
        (good, True),
        (good + good, True),
        (good[:-1], False),
        (good + b"\x09four more", True),
        (good + b"\x08\x01", False),
        (good + wire.framed(1, b"\xff"), False),
        (good + wire.nested(90, 9), True),
        (good + wire.nested(110, 9), False),
        (good + b"\x4b\x54", False),
        (good + wire.key(9, 0) + wire.varint(1, 10), True),
        (good + wire.key(9, 0) + wire.varint(1, 11), False),
        (good + wire.varint(1 << 32 | 8) + b"\x01", False),
    ]:
        body = body.replace(b"\x09four more", wire.key(9, wire.FIXED64) + b"8 bytes!")
        assert wire.decodes(body, TokenizeRequest.DESCRIPTOR) == holds, body


def main():
    home, address, secrets = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    print(f"SEED={SEED} EXAMPLES={EXAMPLES}", flush=True)
    checks = Checks()
    with tempfile.TemporaryDirectory() as stubs:
        vaults.generate_stubs(stubs)
        control()
        vault = vaults.Vault(None, home)
        diet = Diet(checks, vault, Running(vault, address))
        secrets.write_text("\n".join([CARD.decode(), *diet.tokens, *diet.to_revoke]) + "\n", encoding="ascii")
        for rpc in rpcs():
            checks.section(str(rpc), feed, diet, rpc)
            checks.check(f"I-02: a good caller is served after {rpc}", diet.served())
        checks.section("methods that are none", unknown_methods, diet)
        checks.section("metadata", too_much_metadata, diet)
        checks.section("depths", depths, diet)
        checks.section("the log", diet.all_in_the_log)
        checks.check("I-02: a good caller is served at the end", diet.served())
    for (reason, code), count in sorted(diet.answers.items()):
        print(f"      {count:6} {code} {reason}")
    reached = {reason for reason, _ in diet.answers}
    wanted = {"MALFORMED_REQUEST", "SCOPE_MALFORMED", "POLICY_DENIED", "OK"}
    checks.check("I-02: the diet is mixed", wanted <= reached, str(wanted - reached))
    reasons = collections.Counter(reason for reason, _ in diet.texts)
    checks.check("I-02: each reason has one text, or one for each field", max(reasons.values()) <= 12, str(reasons))
    print(f"{checks.passed} passed, {checks.failed} failed")
    return 1 if checks.failed or not checks.passed else 0


if __name__ == "__main__":
    sys.exit(main())
