"""Every rpc with every status that a client can get, seen from a client that has nothing of ours but `proto/`.

The statuses are those of the contract in `proto/cloakroom/v1/*.proto`. Each refusal is also looked up in the log, by an
auditor: what the caller was told has to stand there.

Not reached from outside, and so not here: ABORTED (eight lost races in a row) and INTERNAL (a fault in the vault).
"""

import contextlib
import datetime
import os
import re
import socket
import ssl
import sys
import uuid

import grpc
from cryptography.x509.oid import ExtendedKeyUsageOID
from google.protobuf import descriptor_pb2, duration_pb2, timestamp_pb2
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status

from edges import Edges
from vault import DOMAIN, PATIENCE, Authority

Code = grpc.StatusCode
DAY = 86_400


# Every reason that was answered, with its status; docs/errors.md lists them.
SEEN = set()
SEEN_HANDSHAKES = set()


class Caller:
    """One identity, its channel, and the services."""

    def __init__(self, process, identity, **settings):
        from cloakroom.v1 import audit_service_pb2_grpc, token_service_pb2_grpc

        self.identity = identity
        self.channel = process.channel(identity, **settings)
        self.tokens = token_service_pb2_grpc.TokenServiceStub(self.channel)
        self.audit = audit_service_pb2_grpc.AuditServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    @property
    def id(self):
        return self.identity.id


class Answer:
    """A refusal, taken apart."""

    def __init__(self, error):
        self.code, self.message = error.code(), error.details()
        status = rpc_status.from_call(error)
        self.info = self.violations = self.retry = None
        for detail in status.details if status else []:
            for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
                if detail.Is(kind.DESCRIPTOR):
                    message = kind()
                    detail.Unpack(message)
                    if kind is error_details_pb2.ErrorInfo:
                        self.info = message
                    elif kind is error_details_pb2.BadRequest:
                        self.violations = [violation.field for violation in message.field_violations]
                    else:
                        self.retry = message.retry_delay

        if self.info and self.info.domain == "cloakroom":
            SEEN.add((self.info.reason, self.code.name))

    @property
    def receipt(self):
        metadata = self.info.metadata if self.info else {}
        return (metadata["log_id"], int(metadata["sequence"])) if "sequence" in metadata else None

    def __str__(self):
        reason = self.info.reason if self.info else "no ErrorInfo"
        return f"{self.code.name} {reason} {self.violations or ''} {self.message!r}"


def item_error(result):
    """Code and reason of an item that failed; `None` for one that did not."""
    if not result.HasField("error"):
        return None
    info = error_details_pb2.ErrorInfo()
    [detail] = result.error.details
    if not detail.Unpack(info) or info.domain != "cloakroom":
        return (result.error.code, "no ErrorInfo")
    SEEN.update((info.reason, code.name) for code in Code if code.value[0] == result.error.code)
    return (result.error.code, info.reason)


NOT_FOUND = (Code.NOT_FOUND.value[0], "TOKEN_NOT_FOUND")
DATA_LOSS = (Code.DATA_LOSS.value[0], "RECORD_DAMAGED")


def invalid_item(reason):
    return (Code.INVALID_ARGUMENT.value[0], reason)


def seconds(time):
    return time.seconds + time.nanos / 1e9


class Client:
    """All checks on one vault that runs."""

    def __init__(self, checks, vault, process):
        from cloakroom.v1 import audit_event_pb2, audit_service_pb2, reveal_pb2, token_service_pb2

        self.checks, self.vault, self.process = checks, vault, process
        self.t, self.a, self.e, self.r = token_service_pb2, audit_service_pb2, audit_event_pb2, reveal_pb2
        self.log_id = (vault.path / "log.vkey").read_text(encoding="utf-8").split("+")[0]
        self.auditor = self.new("auditor")

    # === saying and looking up ===

    def new(self, role):
        """A caller who has not been refused yet: a caller's first refusals have an event each."""
        return Caller(self.process, self.vault.new_identity(role))

    def is_(self, what, ours, expected):
        self.checks.check(what, ours == expected, f"got {ours!r}, not {expected!r}")

    def events(self, newest_first=False, page_size=0, page_token="", **filters):
        filters = self.a.AuditFilter(**filters)
        request = self.a.QueryEventsRequest(
            filter=filters, newest_first=newest_first, page_size=page_size, page_token=page_token
        )
        return self.auditor.audit.QueryEvents(request, timeout=PATIENCE)

    def event(self, caller, sequence):
        found = [
            event for event in self.events(caller=caller.id, newest_first=True).events if event.sequence == sequence
        ]
        return found[0] if found else None

    def refused(self, what, call, code, reason, fields=None, caller=None, action=None, **expected):
        """The call fails with exactly this, and with `caller` the event that the answer names says so too."""
        try:
            call()
        except grpc.RpcError as error:
            answer = Answer(error)
        else:
            self.checks.check(what, False, "it was answered")
            return None
        is_ours = answer.info is not None and answer.info.domain == "cloakroom" and answer.info.reason == reason
        self.checks.check(what, answer.code == code and is_ours and answer.violations == fields, str(answer))
        if caller is not None:
            self.recorded(what, answer, caller, code, reason, action, expected)
        return answer

    def failure(self, call):
        try:
            call()
        except grpc.RpcError as error:
            return Answer(error)
        return None

    def recorded(self, what, answer, caller, code, reason, action, expected):
        if answer.receipt is None:
            self.checks.check(f"{what}: its event", False, "the answer names no event")
            return
        log_id, sequence = answer.receipt
        event = self.event(caller, sequence)
        outcome = self.e.OUTCOME_DENIED if code == Code.PERMISSION_DENIED else self.e.OUTCOME_FAILED
        wanted = {"log_id": self.log_id, "outcome": outcome, "reason": reason, "action": action, "succeeded": 0}
        wanted |= {"caller": caller.id, "certificate_sha256": caller.identity.fingerprint} | expected
        found = {name: getattr(event, name) for name in wanted} if event else None
        self.checks.check(f"{what}: its event", log_id == self.log_id and found == wanted, f"{found} is not {wanted}")

    def denied(self, what, call, caller, action, **expected):
        self.refused(what, call, Code.PERMISSION_DENIED, "POLICY_DENIED", None, caller, action, **expected)

    # === short forms ===

    def tokenize(self, caller, scope, *values, **settings):
        items = [
            value if isinstance(value, self.t.TokenizeItem) else self.t.TokenizeItem(value=value) for value in values
        ]
        return caller.tokens.Tokenize(self.t.TokenizeRequest(scope=scope, items=items, **settings), timeout=PATIENCE)

    def detokenize(self, caller, scope, *tokens, purpose="refund", metadata=None, **settings):
        request = self.t.DetokenizeRequest(scope=scope, tokens=tokens, purpose=purpose, **settings)
        return caller.tokens.Detokenize(request, timeout=PATIENCE, metadata=metadata)

    def inspect(self, caller, scope, *tokens, **settings):
        request = self.t.InspectTokensRequest(scope=scope, tokens=tokens, **settings)
        return caller.tokens.InspectTokens(request, timeout=PATIENCE)

    def revoke(self, caller, scope, *tokens, **settings):
        request = self.t.RevokeTokensRequest(scope=scope, tokens=tokens, **settings)
        return caller.tokens.RevokeTokens(request, timeout=PATIENCE)

    def issue(self, caller, scope, *values):
        return [result.issued.token for result in self.tokenize(caller, scope, *values).results]

    def item(self, value=b"4111111111111111", ttl=None, **settings):
        if ttl is not None:
            ttl = duration_pb2.Duration(seconds=ttl[0], nanos=ttl[1])
        return self.t.TokenizeItem(value=value, ttl=ttl, **settings)

    # === Tokenize ===

    def tokenizes(self):
        gateway, operator = self.new("gateway"), self.new("operator")
        values = [b"4111111111111111", b"\x00\xff not text", b"x" * 65536]
        answer = self.tokenize(gateway, "pan", *values)
        issued = [result.issued for result in answer.results]
        shape = re.compile(r"pan_[0-9A-Za-z]{33}")
        self.checks.check(
            "Tokenize OK: three tokens of the scope's format", all(shape.fullmatch(i.token) for i in issued)
        )
        self.checks.check(
            "Tokenize OK: handles are hex and all differ",
            len({i.handle for i in issued}) == 3 and all(re.fullmatch("[0-9a-f]{40}", i.handle) for i in issued),
        )
        self.is_("Tokenize OK: the receipt names the log", answer.receipt.log_id, self.log_id)
        event = self.event(gateway, answer.receipt.sequence)
        self.is_(
            "Tokenize OK: handles in the event", [handle.hex() for handle in event.handles], [i.handle for i in issued]
        )
        self.is_("Tokenize OK: item outcomes", list(event.item_outcomes), [self.e.ITEM_OUTCOME_ISSUED] * 3)
        info = self.inspect(operator, "pan", issued[0].token).results[0].info
        self.is_(
            "Tokenize OK: the scope's default lifetime", info.expire_time.seconds - info.create_time.seconds, 30 * DAY
        )
        self.is_("Tokenize OK: expire_time is the record's", issued[0].expire_time, info.expire_time)
        again = self.issue(gateway, "pan", values[0], values[0])
        self.checks.check("Tokenize OK: equal values get different tokens", len({*again, issued[0].token}) == 3)
        thousand = self.tokenize(gateway, "pan", *[b"%d" % n for n in range(1000)])
        self.is_("Tokenize OK: a thousand items", len({r.issued.token for r in thousand.results}), 1000)

    def tokenize_items(self):
        gateway = self.new("gateway")
        cases = [
            ("an empty value", self.item(b""), "VALUE_EMPTY"),
            ("a value over the scope's size", self.item(b"x" * 65537), "VALUE_TOO_LARGE"),
            ("a lifetime of zero", self.item(ttl=(0, 0)), "LIFETIME_NOT_POSITIVE"),
            ("a lifetime below a millisecond", self.item(ttl=(0, 999_999)), "LIFETIME_NOT_POSITIVE"),
            ("a negative lifetime", self.item(ttl=(-1, 0)), "LIFETIME_NOT_POSITIVE"),
            ("a lifetime a millisecond above the ceiling", self.item(ttl=(400 * DAY, 1_000_000)), "LIFETIME_TOO_LONG"),
            ("the longest lifetime that can be written", self.item(ttl=(315_576_000_000, 0)), "LIFETIME_TOO_LONG"),
            ("a subject", self.item(subject="alice"), "SUBJECT_UNSUPPORTED"),
        ]
        good = [self.item(ttl=(400 * DAY, 0)), self.item(ttl=(0, 1_000_000)), self.item(max_uses=4_294_967_295)]
        answer = self.tokenize(gateway, "pan", good[0], *[item for _, item, _ in cases], *good[1:])
        bad = answer.results[1:-2]
        for (what, _, reason), result in zip(cases, bad, strict=True):
            self.is_(f"Tokenize INVALID_ARGUMENT of an item: {what}", item_error(result), invalid_item(reason))
        neighbours = [answer.results[0], *answer.results[-2:]]
        self.checks.check("Tokenize: bad items leave their neighbours alone", all(r.issued.token for r in neighbours))
        event = self.event(gateway, answer.receipt.sequence)
        issued, refused = self.e.ITEM_OUTCOME_ISSUED, self.e.ITEM_OUTCOME_REFUSED
        self.is_("Tokenize: the event says which", list(event.item_outcomes), [issued, *[refused] * 8, issued, issued])
        self.is_("Tokenize: the event counts them", (event.requested, event.succeeded), (11, 3))

    def tokenize_refusals(self):
        action = self.e.ACTION_TOKENIZE
        gateway = self.new("gateway")

        def wrong(what, reason, fields, code=Code.INVALID_ARGUMENT, scope="pan", items=1, **settings):
            call = lambda: self.tokenize(gateway, scope, *[b"secret-value"] * items, **settings)
            self.refused(f"Tokenize {code.name}: {what}", call, code, reason, fields, gateway, action, requested=items)

        wrong("no items", "BATCH_EMPTY", ["items"], items=0)
        wrong("1,001 items", "BATCH_TOO_LARGE", ["items"], items=1001)
        wrong("no scope", "SCOPE_MALFORMED", ["scope"], scope="")
        wrong("a scope in capitals", "SCOPE_MALFORMED", ["scope"], scope="PAN")
        wrong("a scope with an empty segment", "SCOPE_MALFORMED", ["scope"], scope="acme//ssn")
        wrong("a request id that is no UUID", "REQUEST_ID_MALFORMED", ["request_id"], request_id="again")
        version_1 = str(uuid.uuid1())
        wrong("a request id of another version", "REQUEST_ID_MALFORMED", ["request_id"], request_id=version_1)
        call = lambda: self.tokenize(gateway, "pan", b"good", self.item(b""), b"good", all_or_nothing=True)
        what = "Tokenize INVALID_ARGUMENT: all or nothing, and one item is bad"
        bad = ["items[1]"]
        self.refused(what, call, Code.INVALID_ARGUMENT, "ALL_OR_NOTHING", bad, gateway, action, requested=3)

        for who, role, scope in [
            ("another role", "payments", "pan"),
            ("an auditor", "auditor", "pan"),
            ("a scope that does not exist", "gateway", "nosuch"),
            ("a caller whom no policy names", "stranger", "pan"),
        ]:
            caller = self.new(role)
            call = lambda: self.tokenize(caller, scope, b"1", b"2")
            self.denied(f"Tokenize PERMISSION_DENIED: {who}", call, caller, action, scope=scope, requested=2)

    # === Detokenize ===

    def detokenizes(self):
        gateway, payments = self.new("gateway"), self.new("payments")
        values = [b"4111111111111111", b"\x00\xff not text", b"x" * 65536]
        tokens = self.issue(gateway, "pan", *values)
        trace = uuid.uuid4().hex
        metadata = [("traceparent", f"00-{trace}-0000000000000001-01")]
        answer = self.detokenize(payments, "pan", *reversed(tokens), tokens[0], metadata=metadata)
        expected = [*reversed(values), values[0]]
        self.is_("Detokenize OK: values in order, byte for byte", [r.value for r in answer.results], expected)
        event = self.event(payments, answer.receipt.sequence)
        handles = [r.issued.handle for r in self.tokenize(gateway, "pan", b"1").results]
        self.checks.check("Detokenize OK: the event names every handle", len(set(event.handles)) == 3 and bool(handles))
        wanted = {
            "log_id": self.log_id,
            "sequence": answer.receipt.sequence,
            "action": self.e.ACTION_DETOKENIZE,
            "outcome": self.e.OUTCOME_ALLOWED,
            "reason": "",
            "caller": payments.id,
            "certificate_sha256": payments.identity.fingerprint,
            "scope": "pan",
            "requested": 4,
            "succeeded": 4,
            "purpose": "refund",
            "request_hash": b"",
            "trace_id": trace,
            "policies": ["payments-reads-pan"],
            "node": "vault",
            "reveal": self.r.REVEAL_FULL,
            "item_outcomes": [self.e.ITEM_OUTCOME_RELEASED] * 4,
            "count": 0,
            "detail": "",
        }
        for name, value in wanted.items():
            self.is_(f"Detokenize OK: the event's {name}", getattr(event, name), value)
        self.checks.check("Detokenize OK: the event's peer", re.fullmatch(r"127\.0\.0\.1:\d+", event.peer_address))
        self.is_("Detokenize OK: salt and rulebook", (len(event.salt), len(event.rulebook)), (16, 32))

        full = self.detokenize(payments, "pan", tokens[0], reveal=self.r.REVEAL_FULL)
        self.is_("Detokenize OK: REVEAL_FULL", full.results[0].value, values[0])
        masked = self.detokenize(payments, "pan", tokens[0], reveal=self.r.REVEAL_MASKED)
        self.is_("Detokenize OK: masked by the scope's mask", masked.results[0].value, b"411111******1111")
        event = self.event(payments, masked.receipt.sequence)
        self.is_(
            "Detokenize OK: masked, in the event",
            (event.reveal, list(event.item_outcomes)),
            (self.r.REVEAL_MASKED, [self.e.ITEM_OUTCOME_MASKED]),
        )
        ssn = self.issue(gateway, "ssn", b"123-45-6789", "äöüß".encode(), b"\xff\xfe\xfd\xfc\xfb\xfa", b"12345678")
        masked = self.detokenize(payments, "ssn", *ssn, reveal=self.r.REVEAL_MASKED)
        expected = [b"*******6789", b"****", b"******", b"****5678"]
        self.is_("Detokenize OK: masks hide four and a third", [r.value for r in masked.results], expected)
        tester = self.new("tester")
        [token] = self.issue(tester, "foreign/quiet", b"no purpose needed")
        answer = self.detokenize(tester, "foreign/quiet", token, purpose="")
        self.is_("Detokenize OK: no purpose where the scope wants none", answer.results[0].value, b"no purpose needed")
        words = "Az09 ._:/-" + "x" * 54
        answer = self.detokenize(payments, "pan", tokens[0], purpose=words)
        self.is_("Detokenize OK: the longest purpose, all its characters", answer.results[0].value, values[0])

    def detokenize_items(self):
        gateway, payments, operator = self.new("gateway"), self.new("payments"), self.new("operator")
        [live, revoked] = self.issue(gateway, "pan", b"live", b"revoked")
        self.revoke(operator, "pan", revoked)
        limited = self.issue(gateway, "pan", self.item(b"twice", max_uses=2))[0]
        expired = self.issue(gateway, "pan", self.item(b"expired", ttl=(0, 1_000_000)))[0]
        self.until(
            "an inspector sees the token expired", lambda: self.state(operator, expired) == "TOKEN_STATE_EXPIRED"
        )
        [other] = self.issue(gateway, "ssn", b"123-45-6789")
        unknown = foreign_token("pan")
        damaged = live[:-1] + ("0" if live[-1] != "0" else "1")
        answer = self.detokenize(payments, "pan", limited, live, limited, limited)
        self.is_(
            "Detokenize: two uses, then NOT_FOUND, in item order",
            [r.value or item_error(r) for r in answer.results],
            [b"twice", b"live", b"twice", NOT_FOUND],
        )
        event = self.event(payments, answer.receipt.sequence)
        outcomes = [self.e.ITEM_OUTCOME_RELEASED] * 3 + [self.e.ITEM_OUTCOME_USED_UP]
        self.is_("Detokenize: the event knows it was used up", list(event.item_outcomes), outcomes)

        answer = self.detokenize(payments, "pan", unknown, expired, revoked, limited, other, live)
        missing = answer.results[:5]
        for what, result in zip(("unknown", "expired", "revoked", "used up", "another scope's"), missing, strict=True):
            self.is_(f"Detokenize NOT_FOUND of an item: {what}", item_error(result), NOT_FOUND)
        self.is_("Detokenize: all five say the very same", len({r.SerializeToString() for r in missing}), 1)
        self.is_("Detokenize: and their neighbour is answered", answer.results[5].value, b"live")
        event = self.event(payments, answer.receipt.sequence)
        names = [self.e.ItemOutcome.Name(outcome).removeprefix("ITEM_OUTCOME_") for outcome in event.item_outcomes]
        expected = ["UNKNOWN", "EXPIRED", "REVOKED", "USED_UP", "UNKNOWN", "RELEASED"]
        self.is_("Detokenize: the event tells them apart", names, expected)
        words = [damaged, "", "4111111111111111", live + "0", f" {live}", live.upper(), "a" * 5000]
        answer = self.detokenize(payments, "pan", *words, live)
        for result in answer.results[:-1]:
            what = "Detokenize INVALID_ARGUMENT of an item: not a token"
            self.is_(what, item_error(result), invalid_item("TOKEN_MALFORMED"))
        self.is_(
            "Detokenize: what is no token has no handle", [len(h) for h in self.last(payments).handles], [0] * 7 + [20]
        )

    def detokenize_refusals(self):
        action = self.e.ACTION_DETOKENIZE
        gateway, payments, tester = self.new("gateway"), self.new("payments"), self.new("tester")
        [token] = self.issue(gateway, "pan", b"4111111111111111")
        [extra] = self.issue(tester, "foreign/extra", b"4111111111111111")

        def wrong(
            what, reason, fields, code=Code.INVALID_ARGUMENT, caller=payments, scope="pan", tokens=(token,), **settings
        ):
            call = lambda: self.detokenize(caller, scope, *tokens, **settings)
            expected = {"requested": len(tokens)}
            self.refused(f"Detokenize {code.name}: {what}", call, code, reason, fields, caller, action, **expected)

        wrong("no tokens", "BATCH_EMPTY", ["tokens"], tokens=())
        wrong("1,001 tokens", "BATCH_TOO_LARGE", ["tokens"], tokens=[token] * 1001)
        wrong("a malformed scope", "SCOPE_MALFORMED", ["scope"], scope="pan/")
        wrong("a purpose of 65 characters", "PURPOSE_MALFORMED", ["purpose"], purpose="x" * 65)
        wrong("a purpose with nine digits", "PURPOSE_MALFORMED", ["purpose"], purpose="4111 1111 1")
        wrong("a purpose with a line feed", "PURPOSE_MALFORMED", ["purpose"], purpose="a\nb")
        wrong("a reveal that does not exist", "REVEAL_UNKNOWN", ["reveal"], reveal=7)
        tester_extra = {"caller": tester, "scope": "foreign/extra", "tokens": [extra]}
        wrong("no purpose where the scope wants one", "PURPOSE_REQUIRED", ["purpose"], purpose="", **tester_extra)
        unbuilt = {"code": Code.UNIMPLEMENTED, "reason": "NOT_IMPLEMENTED", **tester_extra}
        wrong("a request id that is no UUID", "REQUEST_ID_MALFORMED", ["request_id"], request_id="x", **tester_extra)
        wrong("nonce", fields=["nonce"], nonce=b"12345678", **unbuilt)
        wrong("send_time", fields=["send_time"], send_time=timestamp_pb2.Timestamp(seconds=1), **unbuilt)

        [large] = self.issue(tester, "foreign/extra", self.item(b"x" * (1 << 20), max_uses=9))
        wrong("an answer above 4 MiB", "REPLY_TOO_LARGE", ["tokens"], **tester_extra | {"tokens": [large] * 4})
        left = self.inspect(tester, "foreign/extra", large).results[0].info.uses_left
        self.is_("Detokenize: an answer above 4 MiB has used up nothing", left, 9)
        fits = self.detokenize(tester, "foreign/extra", *[large] * 3)
        self.is_("Detokenize OK: three mebibytes", sum(len(r.value) for r in fits.results), 3 << 20)

        handle = self.last(gateway).handles[0]
        for who, role, scope, purpose, reveal, handles in [
            ("the gateway", "gateway", "pan", "refund", 1, [handle]),
            ("a purpose that policy does not accept", "payments", "pan", "", 1, [handle]),
            ("in full where only masked is permitted", "payments", "ssn", "refund", 1, None),
            ("a scope that does not exist", "payments", "nosuch", "refund", 1, []),
            ("a caller whom no policy names", "stranger", "pan", "refund", 2, [handle]),
        ]:
            caller = self.new(role)
            call = lambda: self.detokenize(caller, scope, token, purpose=purpose, reveal=reveal)
            expected = {"scope": scope, "requested": 1, "purpose": purpose, "reveal": reveal}
            if handles is not None:
                expected["handles"] = handles
            self.denied(f"Detokenize PERMISSION_DENIED: {who}", call, caller, action, **expected)
        caller = self.new("gateway")
        with contextlib.suppress(grpc.RpcError):
            self.detokenize(caller, "pan", *[token] * 150)
        event = self.last(caller)
        self.is_(
            "Detokenize PERMISSION_DENIED: 100 handles and the count", (len(event.handles), event.requested), (100, 150)
        )

    # === Inspect ===

    def inspects(self):
        gateway, payments, operator = self.new("gateway"), self.new("payments"), self.new("operator")
        live, revoked, used, expired, ssn = (
            *self.issue(gateway, "pan", b"live", b"revoked"),
            *self.issue(gateway, "pan", self.item(b"used", max_uses=1), self.item(b"expired", ttl=(0, 1_000_000))),
            *self.issue(gateway, "ssn", b"123-45-6789"),
        )
        self.revoke(operator, "pan", revoked)
        self.detokenize(payments, "pan", used)
        self.until(
            "an inspector sees the token expired", lambda: self.state(operator, expired) == "TOKEN_STATE_EXPIRED"
        )
        answer = self.inspect(operator, "pan", live, revoked, used, expired)
        states = [self.t.TokenState.Name(r.info.state).removeprefix("TOKEN_STATE_") for r in answer.results]
        self.is_("InspectTokens OK: states", states, ["ACTIVE", "REVOKED", "USED_UP", "EXPIRED"])
        infos = [r.info for r in answer.results]
        self.is_("InspectTokens OK: key version", {info.key_version for info in infos}, {1})
        uses = [info.uses_left if info.HasField("uses_left") else None for info in infos]
        self.is_("InspectTokens OK: uses left, absent if not limited", uses, [None, None, 0, None])
        handles = [info.handle for info in infos]
        both = self.inspect(operator, "pan", live, handles=[handles[1], handles[0]])
        found = [r.info.handle for r in both.results]
        self.is_("InspectTokens OK: tokens first, then handles", found, [handles[0], handles[1], handles[0]])
        event = self.event(operator, answer.receipt.sequence)
        self.is_(
            "InspectTokens OK: its event",
            (event.action, list(event.item_outcomes), [h.hex() for h in event.handles]),
            (self.e.ACTION_INSPECT, [self.e.ITEM_OUTCOME_DONE] * 4, handles),
        )
        other = self.inspect(operator, "ssn", ssn).results[0].info.handle
        answer = self.inspect(
            operator, "pan", foreign_token("pan"), ssn, "nonsense", handles=["00" * 20, other, "0", handles[0].upper()]
        )
        errors = [item_error(result) for result in answer.results]
        malformed = [invalid_item("TOKEN_MALFORMED"), invalid_item("HANDLE_MALFORMED")]
        expected = [NOT_FOUND, NOT_FOUND, malformed[0], NOT_FOUND, NOT_FOUND, malformed[1], malformed[1]]
        whats = ["NOT_FOUND of an item: unknown token", "NOT_FOUND of an item: another scope's token"]
        whats += ["INVALID_ARGUMENT of an item: not a token", "NOT_FOUND of an item: unknown handle"]
        whats += ["NOT_FOUND of an item: another scope's handle"] + ["INVALID_ARGUMENT of an item: not a handle"] * 2
        for what, error, wanted in zip(whats, errors, expected, strict=True):
            self.is_(f"InspectTokens {what}", error, wanted)

        def wrong(what, reason, fields, **settings):
            settings = {"scope": "pan", "tokens": [live]} | settings
            scope, tokens = settings.pop("scope"), settings.pop("tokens")
            call = lambda: self.inspect(operator, scope, *tokens, **settings)
            action, code = self.e.ACTION_INSPECT, Code.INVALID_ARGUMENT
            self.refused(f"InspectTokens INVALID_ARGUMENT: {what}", call, code, reason, fields, operator, action)

        wrong("neither tokens nor handles", "BATCH_EMPTY", ["tokens"], tokens=[])
        wrong("1,001 together", "BATCH_TOO_LARGE", ["tokens"], tokens=[live] * 500, handles=[handles[0]] * 501)
        wrong("a malformed scope", "SCOPE_MALFORMED", ["scope"], scope="a b")
        for role, scope in [
            ("gateway", "pan"),
            ("payments", "pan"),
            ("auditor", "pan"),
            ("stranger", "pan"),
            ("operator", "no"),
        ]:
            caller = self.new(role)
            call = lambda: self.inspect(caller, scope, live)
            what = f"InspectTokens PERMISSION_DENIED: {role} in {scope}"
            self.denied(what, call, caller, self.e.ACTION_INSPECT, scope=scope, requested=1)

    # === Revoke, Renew ===

    def revokes(self):
        gateway, payments, operator = self.new("gateway"), self.new("payments"), self.new("operator")
        tokens = self.issue(gateway, "pan", b"one", b"two")
        handles = [h.hex() for h in self.last(gateway).handles]
        first = self.revoke(operator, "pan", tokens[0], reason="stolen: ticket OPS-42")
        time = first.results[0].revoke_time
        self.checks.check("RevokeTokens OK: when", time.seconds > 0)
        event = self.event(operator, first.receipt.sequence)
        self.is_(
            "RevokeTokens OK: its event, with the reason",
            (event.action, event.detail, list(event.item_outcomes), [h.hex() for h in event.handles]),
            (self.e.ACTION_REVOKE, "stolen: ticket OPS-42", [self.e.ITEM_OUTCOME_DONE], handles[:1]),
        )
        again = self.revoke(operator, "pan", tokens[0], tokens[0], handles=[handles[0]])
        self.is_("RevokeTokens OK: again, with the first time", [r.revoke_time for r in again.results], [time] * 3)
        self.revoke(operator, "pan", handles=[handles[1]])
        answer = self.detokenize(payments, "pan", *tokens)
        self.is_("RevokeTokens OK: by token and by handle", [item_error(r) for r in answer.results], [NOT_FOUND] * 2)
        answer = self.revoke(operator, "pan", foreign_token("pan"), "nonsense", handles=["00" * 20, "0"])
        errors = [item_error(result) for result in answer.results]
        self.is_("RevokeTokens NOT_FOUND of an item: unknown token", errors[0], NOT_FOUND)
        self.is_("RevokeTokens INVALID_ARGUMENT of an item: not a token", errors[1], invalid_item("TOKEN_MALFORMED"))
        self.is_("RevokeTokens NOT_FOUND of an item: unknown handle", errors[2], NOT_FOUND)
        self.is_("RevokeTokens INVALID_ARGUMENT of an item: not a handle", errors[3], invalid_item("HANDLE_MALFORMED"))

        def wrong(what, word, fields, code=Code.INVALID_ARGUMENT, scope="pan", tokens=tokens, **settings):
            call = lambda: self.revoke(operator, scope, *tokens, **settings)
            action = self.e.ACTION_REVOKE
            self.refused(f"RevokeTokens {code.name}: {what}", call, code, word, fields, operator, action)

        wrong("neither tokens nor handles", "BATCH_EMPTY", ["tokens"], tokens=[])
        wrong("1,001 together", "BATCH_TOO_LARGE", ["tokens"], tokens=[tokens[0]] * 1000, handles=handles[:1])
        wrong("a malformed scope", "SCOPE_MALFORMED", ["scope"], scope="/")
        wrong("a reason of 65 characters", "REASON_MALFORMED", ["reason"], reason="x" * 65)
        wrong("a card number as reason", "REASON_MALFORMED", ["reason"], reason="4111111111111111")
        wrong("a request id that is no UUID", "REQUEST_ID_MALFORMED", ["request_id"], request_id="x")
        for role in ("gateway", "payments", "auditor", "stranger"):
            caller = self.new(role)
            call = lambda: self.revoke(caller, "pan", tokens[0], reason="no right to it")
            what = f"RevokeTokens PERMISSION_DENIED: {role}"
            self.denied(what, call, caller, self.e.ACTION_REVOKE, scope="pan", handles=[bytes.fromhex(handles[0])])

    def renew(self, caller, scope, *tokens, seconds=None, **settings):
        ttl = None if seconds is None else duration_pb2.Duration(seconds=seconds)
        request = self.t.RenewTokensRequest(scope=scope, tokens=tokens, ttl=ttl, **settings)
        return caller.tokens.RenewTokens(request, timeout=PATIENCE)

    def renewals(self):
        gateway, operator, auditor = self.new("gateway"), self.new("operator"), self.new("auditor")
        tokens = self.issue(gateway, "pan", b"one", b"two")
        handles = [h.hex() for h in self.last(gateway).handles]
        answer = self.renew(operator, "pan", tokens[0], foreign_token("pan"), "nonsense", tokens[0], seconds=3600)
        expires, unknown, nonsense, twice = answer.results
        infos = self.inspect(operator, "pan", tokens[0]).results
        self.is_("RenewTokens OK: until when", infos[0].info.expire_time, expires.expire_time)
        self.is_("RenewTokens OK: twice in a batch", twice, expires)
        self.is_("RenewTokens NOT_FOUND of an item: unknown token", item_error(unknown), NOT_FOUND)
        self.is_("RenewTokens INVALID_ARGUMENT of an item: not a token", item_error(nonsense), invalid_item("TOKEN_MALFORMED"))
        event = self.event(operator, answer.receipt.sequence)
        done = self.e.ITEM_OUTCOME_DONE
        self.is_(
            "RenewTokens OK: its event",
            (event.action, event.succeeded, list(event.item_outcomes)),
            (self.e.ACTION_RENEW, 2, [done, self.e.ITEM_OUTCOME_UNKNOWN, self.e.ITEM_OUTCOME_MALFORMED, done]),
        )
        for what, seconds, word in [
            ("above the ceiling", 400 * 86400 + 1, "LIFETIME_TOO_LONG"),
            ("zero", 0, "LIFETIME_NOT_POSITIVE"),
            ("negative", -1, "LIFETIME_NOT_POSITIVE"),
        ]:
            [result] = self.renew(operator, "pan", tokens[0], seconds=seconds).results
            self.is_(f"RenewTokens INVALID_ARGUMENT of an item: {what}", item_error(result), invalid_item(word))
        self.revoke(operator, "pan", tokens[1])
        [result] = self.renew(operator, "pan", tokens[1]).results
        self.is_("RenewTokens NOT_FOUND of an item: a dead token", item_error(result), NOT_FOUND)

        def wrong(what, word, fields, scope="pan", tokens=tokens, **settings):
            call = lambda: self.renew(operator, scope, *tokens, **settings)
            what = f"RenewTokens INVALID_ARGUMENT: {what}"
            self.refused(what, call, Code.INVALID_ARGUMENT, word, fields, operator, self.e.ACTION_RENEW)

        wrong("no tokens", "BATCH_EMPTY", ["tokens"], tokens=[])
        wrong("1,001 tokens", "BATCH_TOO_LARGE", ["tokens"], tokens=[tokens[0]] * 1001)
        wrong("a malformed scope", "SCOPE_MALFORMED", ["scope"], scope="..")
        wrong("a request id that is no UUID", "REQUEST_ID_MALFORMED", ["request_id"], request_id="x")
        long = [token for _ in range(2) for token in self.issue(gateway, "pan", *[b"x" * 65536] * 45)]
        wrong("records of more than 5 MiB", "RECORDS_TOO_LARGE", ["tokens"], tokens=long)
        for role in ("gateway", "payments", "auditor", "stranger"):
            caller = self.new(role)
            call = lambda: self.renew(caller, "pan", tokens[0])
            what = f"RenewTokens PERMISSION_DENIED: {role}"
            self.denied(what, call, caller, self.e.ACTION_RENEW, scope="pan", handles=[bytes.fromhex(handles[0])])

    def repeats(self):
        """A request id makes a call the same call: the same outcome, nothing twice, and no other call under it."""
        gateway, payments, operator, auditor = map(self.new, ("gateway", "payments", "operator", "auditor"))
        ids = [str(uuid.uuid4()) for _ in range(4)]

        def used(what, call, caller, action):
            what = f"{what} FAILED_PRECONDITION: the request id was used for another request"
            self.refused(what, call, Code.FAILED_PRECONDITION, "REQUEST_ID_USED", None, caller, action)

        issue = lambda value: self.tokenize(gateway, "pan", self.item(value, max_uses=1), request_id=ids[0])
        first, again = issue(b"4111111111111111"), issue(b"4111111111111111")
        self.is_("Tokenize OK: again, the same token", list(again.results), list(first.results))
        self.checks.check("Tokenize OK: again, another receipt", again.receipt.sequence != first.receipt.sequence)
        self.is_("Tokenize OK: again, its event", self.event(gateway, again.receipt.sequence).detail, "repeated")
        used("Tokenize", lambda: issue(b"4111111111111112"), gateway, self.e.ACTION_TOKENIZE)
        token = first.results[0].issued.token
        show = lambda purpose: self.detokenize(payments, "pan", token, request_id=ids[1], purpose=purpose)
        shown = [show("refund").results[0].value for _ in range(3)]
        self.is_("Detokenize OK: again, the value without a second use", shown, [b"4111111111111111"] * 3)
        once_more = self.detokenize(payments, "pan", token).results[0]
        self.is_("Detokenize NOT_FOUND of an item: used up under a request id", item_error(once_more), NOT_FOUND)
        used("Detokenize", lambda: show("another purpose"), payments, self.e.ACTION_DETOKENIZE)
        [other] = self.issue(gateway, "pan", b"another")
        renewals = [self.renew(operator, "pan", other, seconds=60, request_id=ids[2]).results[0] for _ in range(2)]
        self.is_("RenewTokens OK: again, the same time", renewals[1], renewals[0])
        call = lambda: self.renew(operator, "pan", other, seconds=61, request_id=ids[2])
        used("RenewTokens", call, operator, self.e.ACTION_RENEW)
        take = lambda reason: self.revoke(operator, "pan", other, reason=reason, request_id=ids[3])
        self.is_("RevokeTokens OK: again, the same time", take("lost").results[0], take("lost").results[0])
        used("RevokeTokens", lambda: take("stolen"), operator, self.e.ACTION_REVOKE)
        filter = self.a.AuditFilter(request_id=ids[1])
        page = auditor.audit.QueryEvents(self.a.QueryEventsRequest(filter=filter), timeout=PATIENCE)
        self.is_("QueryEvents OK: by request", {e.caller for e in page.events}, {payments.id})
        self.is_("QueryEvents OK: by request, all of them", len(page.events), 4)

    def edges(self):
        Edges(self, sys.modules[__name__]).run()

    def proofs(self):
        """Checkpoints, proofs and tails: what is answered fits together, and who may not ask is refused."""
        a, query, auditor = self.a, self.e.ACTION_QUERY_AUDIT, self.new("auditor")
        note = lambda c: c.audit.GetCheckpoint(a.GetCheckpointRequest(), timeout=PATIENCE).checkpoint.note
        include = lambda c, **f: c.audit.GetInclusionProof(a.GetInclusionProofRequest(**f), timeout=PATIENCE).proof
        connect = lambda c, **f: c.audit.GetConsistencyProof(a.GetConsistencyProofRequest(**f), timeout=PATIENCE).proof

        def first(caller, **fields):
            tail = caller.audit.TailEvents(a.TailEventsRequest(**fields), timeout=PATIENCE)
            event = next(tail).event
            tail.cancel()
            return event

        size = lambda text: int(text.split("\n")[1])
        old, new = note(auditor), note(auditor)
        self.checks.check("GetCheckpoint OK: it covers its own event", size(new) > size(old), new)
        proof = include(auditor, sequence=3, tree_size=size(new))
        event = first(auditor, from_sequence=3)
        self.is_("TailEvents OK: from where it was asked", event.sequence, 3)
        self.is_("GetInclusionProof OK: the tree that was named", (proof.sequence, proof.tree_size), (3, size(new)))
        event.ClearField("log_id"), event.ClearField("sequence")
        hashed = b"\x01" + event.SerializeToString(deterministic=True)
        self.is_("GetInclusionProof OK: the event's bytes", proof.event, hashed)
        newest = include(auditor, sequence=size(new))
        self.checks.check("GetInclusionProof OK: younger than the checkpoint", newest.tree_size > size(new), str(newest))
        path = connect(auditor, from_size=size(old), to_size=size(new))
        self.is_("GetConsistencyProof OK", (path.from_size, path.to_size), (size(old), size(new)))
        beyond = 1 << 40
        for what, call in [
            ("an event beyond the log", lambda: include(auditor, sequence=beyond)),
            ("a tree beyond the log", lambda: include(auditor, sequence=0, tree_size=beyond)),
            ("an event beyond its tree", lambda: include(auditor, sequence=size(old), tree_size=size(old))),
            ("a size beyond the log", lambda: connect(auditor, from_size=1, to_size=beyond)),
            ("a tail beyond the log", lambda: first(auditor, from_sequence=beyond)),
        ]:
            self.refused(f"NOT_FOUND: {what}", call, Code.NOT_FOUND, "NOT_IN_LOG", None, auditor, query)
        what, call = "GetConsistencyProof INVALID_ARGUMENT: backwards", lambda: connect(auditor, from_size=3, to_size=2)
        self.refused(what, call, Code.INVALID_ARGUMENT, "SIZES_REVERSED", ["from_size"], auditor, query)
        what, call = (
            "TailEvents INVALID_ARGUMENT: a handle that is none",
            lambda: first(auditor, filter=a.AuditFilter(handle="xyz")),
        )
        self.refused(what, call, Code.INVALID_ARGUMENT, "FILTER_MALFORMED", ["filter.handle"], auditor, query)
        for name, call in [
            ("TailEvents", first),
            ("GetCheckpoint", note),
            ("GetInclusionProof", include),
            ("GetConsistencyProof", connect),
        ]:
            for who in ("stranger", "operator", "gateway", "payments"):
                caller = self.new(who)
                self.denied(f"{name} PERMISSION_DENIED: {who}", lambda: call(caller), caller, query)

    # === Streams and formats ===

    def stream(self, rpc, message, batches):
        """The answers of a stream up to its end, and the error that ended it, if one did."""
        answers = []
        try:
            for answer in rpc(iter([message(batch=batch) for batch in batches]), timeout=PATIENCE):
                answers.append(answer.batch)
        except grpc.RpcError as error:
            return answers, error
        return answers, None

    def streams(self):
        """Batch after batch, answered in order; each has an event of its own; one that fails ends the stream."""
        t = self.t
        values = [[b"%d of %d" % (place, batch) for place in range(batch % 7 + 1)] for batch in range(50)]

        def tokenize(caller, *requests):
            return self.stream(caller.tokens.StreamTokenize, t.StreamTokenizeRequest, requests)

        def detokenize(caller, *requests):
            return self.stream(caller.tokens.StreamDetokenize, t.StreamDetokenizeRequest, requests)

        def batch(scope, batch_of):
            return t.TokenizeRequest(scope=scope, items=[self.item(value) for value in batch_of])

        def exchange(scope, tokens):
            return t.DetokenizeRequest(scope=scope, tokens=tokens, purpose="refund")

        gateway, payments = self.new("gateway"), self.new("payments")
        answers, error = tokenize(gateway, *(batch("pan", batch_of) for batch_of in values))
        tokens = [[result.issued.token for result in answer.results] for answer in answers]
        self.is_("StreamTokenize OK: fifty batches", (error, len(answers)), (None, 50))
        self.streamed("StreamTokenize", gateway, self.e.ACTION_TOKENIZE, answers)
        answers, error = detokenize(payments, *(exchange("pan", batch_of) for batch_of in tokens))
        found = [[result.value for result in answer.results] for answer in answers]
        self.is_("StreamDetokenize OK: fifty batches, in order", (error, found), (None, values))
        self.streamed("StreamDetokenize", payments, self.e.ACTION_DETOKENIZE, answers)
        self.is_("StreamTokenize OK: no batch", tokenize(self.new("gateway")), ([], None))

        first = tokens[0]
        invalid, denied = Code.INVALID_ARGUMENT, Code.PERMISSION_DENIED
        in_good, out_good = batch("pan", [b"1"]), exchange("pan", first)
        for name, role, run, good, bad, code, reason, fields in [
            ("Tokenize", "gateway", tokenize, in_good, batch("pan", []), invalid, "BATCH_EMPTY", ["items"]),
            ("Tokenize", "gateway", tokenize, in_good, None, invalid, "SCOPE_MALFORMED", ["scope"]),
            ("Tokenize", "gateway", tokenize, in_good, batch("no", [b"1"]), denied, "POLICY_DENIED", None),
            ("Tokenize", "stranger", tokenize, None, in_good, denied, "POLICY_DENIED", None),
            ("Detokenize", "payments", detokenize, out_good, exchange("pan", []), invalid, "BATCH_EMPTY", ["tokens"]),
            ("Detokenize", "payments", detokenize, out_good, exchange("ssn", first), denied, "POLICY_DENIED", None),
            ("Detokenize", "stranger", detokenize, None, out_good, denied, "POLICY_DENIED", None),
        ]:
            caller, before = self.new(role), [good] * 2 if good else []
            answers, error = run(caller, *before, bad, *before)
            what = f"Stream{name} {code.name}: {reason} of {role}, behind {len(before)}"
            self.is_(f"{what}: those before are answered", len(answers), len(before))

            def again(error=error):
                raise error

            action = self.e.ACTION_TOKENIZE if name == "Tokenize" else self.e.ACTION_DETOKENIZE
            if error is None:
                self.checks.check(what, False, "the stream did not end there")
            else:
                self.refused(what, again, code, reason, fields, caller, action)
            self.is_(f"{what}: those behind are not begun", len(self.events(caller=caller.id).events), len(before) + 1)

    def streamed(self, what, caller, action, answers):
        """Each batch has its event, and the receipts name them in order."""
        events = self.events(caller=caller.id, action=action, page_size=1000).events
        found = [(event.sequence, event.requested, event.succeeded) for event in events]
        expected = [(answer.receipt.sequence, len(answer.results), len(answer.results)) for answer in answers]
        self.is_(f"{what} OK: an event for each batch", found, expected)

    def uuids(self):
        """A scope of the format `uuid`."""
        tester = self.new("tester")
        values = [b"one", b"two", b"three"]
        issued = [result.issued for result in self.tokenize(tester, "foreign/uuid", *values).results]
        parsed = [uuid.UUID(one.token) for one in issued]
        versions = [(one.version, one.variant) for one in parsed]
        self.is_("Tokenize OK: UUIDs of version 4", versions, [(4, uuid.RFC_4122)] * 3)
        self.is_("Tokenize OK: as they are written", [str(one) for one in parsed], [one.token for one in issued])
        self.is_("Tokenize OK: their handles have no second", {one.handle[:8] for one in issued}, {"00000000"})
        answer = self.detokenize(tester, "foreign/uuid", *(one.token.upper() for one in issued))
        self.is_("Detokenize OK: UUIDs, in upper case", [result.value for result in answer.results], values)
        wrong = [str(uuid.uuid4()), str(uuid.uuid1()), parsed[0].hex, parsed[0].urn, foreign_token("pan")]
        errors = [item_error(result) for result in self.detokenize(tester, "foreign/uuid", *wrong).results]
        self.is_("Detokenize NOT_FOUND of an item: unknown UUID", errors[0], NOT_FOUND)
        malformed = [invalid_item("TOKEN_MALFORMED")] * 4
        self.is_("Detokenize INVALID_ARGUMENT of an item: not such a UUID", errors[1:], malformed)

    # === QueryEvents ===

    def queries(self):
        gateway, payments = self.new("gateway"), self.new("payments")
        started = timestamp_pb2.Timestamp()
        started.FromDatetime(datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1))
        [token] = self.issue(gateway, "pan", b"4111111111111111")
        handle = self.last(gateway).handles[0].hex()
        for _ in range(4):
            self.detokenize(payments, "pan", token)
        with contextlib.suppress(grpc.RpcError):
            self.detokenize(gateway, "pan", token)
        names = lambda page: [(event.action, event.outcome) for event in page.events]
        e = self.e
        life = [(e.ACTION_TOKENIZE, e.OUTCOME_ALLOWED), *[(e.ACTION_DETOKENIZE, e.OUTCOME_ALLOWED)] * 4]
        life += [(e.ACTION_DETOKENIZE, e.OUTCOME_DENIED)]
        mine = lambda events: [event for event in events if event.action != e.ACTION_QUERY_AUDIT]
        self.is_(
            "QueryEvents OK: by handle", [(v.action, v.outcome) for v in mine(self.events(handle=handle).events)], life
        )
        by_token = self.events(scope="pan", token=token)
        self.is_("QueryEvents OK: by token", [(v.action, v.outcome) for v in mine(by_token.events)], life)
        asked = self.last(self.auditor)
        hidden = token not in asked.detail and handle in asked.detail and [h.hex() for h in asked.handles] == [handle]
        self.checks.check(
            "QueryEvents OK: the question is an event, with the handle for the token", hidden, asked.detail
        )
        newest = self.events(caller=payments.id, newest_first=True)
        self.is_("QueryEvents OK: by caller", names(newest), life[1:5])
        numbers = [event.sequence for event in newest.events]
        self.is_("QueryEvents OK: newest first", numbers, sorted(numbers, reverse=True))
        denied = self.events(caller=gateway.id, outcome=e.OUTCOME_DENIED)
        self.is_("QueryEvents OK: by outcome", names(denied), life[5:])
        issued = self.events(caller=gateway.id, action=e.ACTION_TOKENIZE)
        self.is_("QueryEvents OK: by action", names(issued), life[:1])
        self.checks.check("QueryEvents OK: by scope", {v.scope for v in self.events(scope="ssn").events} == {"ssn"})
        self.is_("QueryEvents OK: by time", names(self.events(caller=payments.id, start_time=started)), life[1:5])
        self.is_("QueryEvents OK: before all time", names(self.events(caller=payments.id, end_time=started)), [])
        third = newest.events[1].time
        before = self.events(caller=payments.id, end_time=third)
        self.checks.check(
            "QueryEvents OK: end_time is not included", all(seconds(v.time) < seconds(third) for v in before.events)
        )
        own = self.events(action=e.ACTION_START)
        self.is_("QueryEvents OK: the vault's own", {v.caller for v in own.events}, {f"spiffe://{DOMAIN}/vault"})

        pages, page_token = [], ""
        while True:
            page = self.events(caller=payments.id, page_size=3, page_token=page_token)
            pages.append([event.sequence for event in page.events])
            page_token = page.next_page_token
            if not page_token:
                break
        self.is_("QueryEvents OK: pages", [len(page) for page in pages], [3, 1])
        self.is_("QueryEvents OK: pages join", sum(pages, []), sorted(numbers))
        self.every_sequence()
        page = self.events(caller=payments.id, page_size=1)
        self.query_refusals(token, page.next_page_token, payments)

    def every_sequence(self):
        sequences, times, page_token = [], [], ""
        for _ in range(1000):
            page = self.events(page_size=1000, page_token=page_token)
            sequences += [event.sequence for event in page.events]
            times += [(event.time.seconds, event.time.nanos) for event in page.events]
            page_token = page.next_page_token
            if not page_token or len(page.events) < 2:
                break
        self.is_("QueryEvents OK: the whole log without a gap", sequences, list(range(len(sequences))))
        self.checks.check("QueryEvents OK: its time never decreases", times == sorted(times))

    def query_refusals(self, token, cursor, payments):
        e = self.e

        def wrong(
            what, reason, fields, code=Code.INVALID_ARGUMENT, newest_first=False, page_size=0, page_token="", **filters
        ):
            auditor = self.new("auditor")
            request = self.a.QueryEventsRequest(
                filter=self.a.AuditFilter(**filters),
                newest_first=newest_first,
                page_size=page_size,
                page_token=page_token,
            )
            call = lambda: auditor.audit.QueryEvents(request, timeout=PATIENCE)
            what = f"QueryEvents {code.name}: {what}"
            self.refused(what, call, code, reason, fields, auditor, e.ACTION_QUERY_AUDIT)

        wrong("a negative page size", "PAGE_SIZE_MALFORMED", ["page_size"], page_size=-1)
        wrong("a page size above 1,000", "PAGE_SIZE_MALFORMED", ["page_size"], page_size=1001)
        wrong("a made-up cursor", "CURSOR_MALFORMED", ["page_token"], page_token="AAAA")
        wrong("another question's cursor", "CURSOR_MALFORMED", ["page_token"], page_token=cursor)
        order = {"caller": payments.id, "newest_first": True}
        wrong("another order's cursor", "CURSOR_MALFORMED", ["page_token"], page_token=cursor, **order)
        wrong("a handle that is none", "FILTER_MALFORMED", ["filter.handle"], handle="xyz")
        wrong("a token that is none", "FILTER_MALFORMED", ["filter.token"], scope="pan", token="xyz")
        wrong("a token without a scope", "FILTER_MALFORMED", ["filter.scope"], token=token)
        wrong("a token and a handle", "FILTER_MALFORMED", ["filter.token"], scope="pan", token=token, handle="00" * 20)
        wrong("an action that does not exist", "FILTER_MALFORMED", ["filter.action"], action=99)
        wrong("an outcome that does not exist", "FILTER_MALFORMED", ["filter.outcome"], outcome=99)
        before = timestamp_pb2.Timestamp(seconds=-1)
        wrong("a time before 1970", "FILTER_MALFORMED", ["filter.start_time"], start_time=before)
        wrong("a purpose that no call may have", "FILTER_MALFORMED", ["filter.purpose"], purpose="4111 1111 1")
        wrong("a trace that is none", "FILTER_MALFORMED", ["filter.trace_id"], trace_id="4BF9")
        wrong("a request id that is none", "FILTER_MALFORMED", ["filter.request_id"], request_id="x")
        for role in ("gateway", "payments", "operator", "stranger"):
            caller = self.new(role)
            call = lambda: caller.audit.QueryEvents(self.a.QueryEventsRequest(), timeout=PATIENCE)
            self.denied(f"QueryEvents PERMISSION_DENIED: {role}", call, caller, e.ACTION_QUERY_AUDIT, scope="")

    def summaries(self):
        """Beyond a rate a caller's refusals are counted, not lost."""
        caller, calls = self.new("stranger"), 40
        receipts = 0
        for _ in range(calls):
            try:
                self.tokenize(caller, "pan", b"1")
            except grpc.RpcError as error:
                receipts += Answer(error).receipt is not None

        def recorded():
            events = self.events(caller=caller.id).events
            return sum(max(event.count, 1) for event in events), sum(event.count == 0 for event in events)

        self.until("all refusals of one caller are in the log", lambda: recorded()[0] >= calls)
        self.is_("refusals: each counted once, those with a receipt by themselves", recorded(), (calls, receipts))
        self.checks.check("refusals: most of many come in summaries", 10 <= receipts < calls, str(receipts))

    # === health, reflection, the transport ===

    def health(self):
        for role in ("gateway", "stranger"):
            caller = self.new(role)
            services = ("", "cloakroom.v1.TokenService", "cloakroom.v1.AuditService")
            for service in services:
                request = health_pb2.HealthCheckRequest(service=service)
                answer = caller.health.Check(request, timeout=PATIENCE)
                serving = health_pb2.HealthCheckResponse.SERVING
                self.is_(f"health Check OK: {role}, {service or 'the whole'}", answer.status, serving)
        listing = lambda: caller.health.List(health_pb2.HealthListRequest(), timeout=PATIENCE)
        self.refused("health List UNIMPLEMENTED", listing, Code.UNIMPLEMENTED, "NOT_IMPLEMENTED")
        watch = caller.health.Watch(health_pb2.HealthCheckRequest(service=""), timeout=PATIENCE)
        self.is_("health Watch OK", next(iter(watch)).status, health_pb2.HealthCheckResponse.SERVING)
        watch.cancel()
        try:
            caller.health.Check(health_pb2.HealthCheckRequest(service="nosuch"), timeout=PATIENCE)
            self.checks.check("health Check NOT_FOUND", False, "it was answered")
        except grpc.RpcError as error:
            self.is_("health Check NOT_FOUND", error.code(), Code.NOT_FOUND)

    def reflection(self):
        caller = self.new("stranger")
        # v1 has the messages of v1alpha under another path.
        info = caller.channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )
        files = ["cloakroom/v1/token_service.proto", "cloakroom/v1/audit_service.proto"]
        requests = [reflection_pb2.ServerReflectionRequest(list_services="")]
        requests += [reflection_pb2.ServerReflectionRequest(file_by_filename=name) for name in files]
        answers = list(info(iter(requests), timeout=PATIENCE))
        services = {service.name for service in answers[0].list_services_response.service}
        expected = {"cloakroom.v1.TokenService", "cloakroom.v1.AuditService", "grpc.health.v1.Health"}
        self.checks.check("reflection OK: services", expected <= services, str(services))
        for name, answer, ours in zip(files, answers[1:3], (self.t, self.a), strict=True):
            [encoded] = answer.file_descriptor_response.file_descriptor_proto
            theirs, mine = descriptor_pb2.FileDescriptorProto.FromString(encoded), descriptor_pb2.FileDescriptorProto()
            ours.DESCRIPTOR.CopyToProto(mine)
            theirs.ClearField("source_code_info")
            self.is_(f"reflection OK: {name} is that of proto/", shape_of(theirs), shape_of(mine))
        unknown = reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.such.Symbol")
        try:
            list(info(iter([unknown]), timeout=PATIENCE))
            self.checks.check("reflection NOT_FOUND: no such symbol", False, "it was answered")
        except grpc.RpcError as error:
            self.is_("reflection NOT_FOUND: no such symbol", error.code(), Code.NOT_FOUND)

    def transport(self):
        caller = self.new("gateway")

        def raw(path, content, **settings):
            send = caller.channel.unary_unary(path, lambda data: data, lambda data: data)
            return send(content, timeout=PATIENCE, **settings)

        tokenize = "/cloakroom.v1.TokenService/Tokenize"
        for what, path in [
            ("a method that does not exist", "/cloakroom.v1.TokenService/Steal"),
            ("a service that does not exist", "/cloakroom.v1.AdminService/Unseal"),
        ]:
            self.refused(f"UNIMPLEMENTED: {what}", lambda: raw(path, b""), Code.UNIMPLEMENTED, "NOT_IMPLEMENTED")
        invalid = (Code.INVALID_ARGUMENT, "MALFORMED_REQUEST")
        self.refused("INVALID_ARGUMENT: bytes that are no message", lambda: raw(tokenize, b"\xff\xff\xff"), *invalid)
        text = self.t.TokenizeRequest(scope="pan").SerializeToString() + b"\x0a\x02\xff\xfe"
        self.refused("INVALID_ARGUMENT: text that is no UTF-8", lambda: raw(tokenize, text), *invalid)
        big = lambda: self.tokenize(caller, "pan", *[b"x" * 65536] * 64)
        self.refused("INVALID_ARGUMENT: a message above 4 MiB", big, *invalid)
        near = self.tokenize(caller, "pan", *[b"x" * 65536] * 63)
        self.is_("OK: a message just below 4 MiB", len([r for r in near.results if r.issued.token]), 63)
        zipped = Caller(self.process, self.vault.new_identity("gateway"), compression=grpc.Compression.Gzip)
        call = lambda: self.tokenize(zipped, "pan", b"x" * 1000)
        self.refused("UNIMPLEMENTED: a compressed message", call, Code.UNIMPLEMENTED, "NOT_IMPLEMENTED")
        # The timeout as a header of the caller's own, so that the client does not give up before the vault does.
        late = Code.DEADLINE_EXCEEDED
        request = self.t.TokenizeRequest(scope="pan", items=[self.item()])
        for attempt in range(5):
            call = lambda: caller.tokens.Tokenize(request, metadata=[("grpc-timeout", "0n")])
            self.refused(f"DEADLINE_EXCEEDED: at once, attempt {attempt + 1}", call, late, "DEADLINE_EXCEEDED")
        for timeout in ("20000000n", "60S", "nonsense"):
            answer = caller.tokens.Tokenize(request, metadata=[("grpc-timeout", timeout)])
            self.checks.check(f"OK: a timeout of {timeout}", bool(answer.results[0].issued.token))
        answer = self.tokenize(caller, "pan", b"the connection still works")
        self.checks.check("OK: after all that, on the same connection", bool(answer.results[0].issued.token))

    # === the door ===

    def certificates(self):
        """What is no good certificate gets no further than the handshake, and the log counts it."""
        spiffe, authority = f"spiffe://{DOMAIN}/gateway", self.vault.authority
        hour = datetime.timedelta(hours=1)
        cases = [
            ("none", None, "no_client_certificate"),
            ("another authority's", Authority().sign(spiffe), "certificate_unknown_issuer"),
            ("another trust domain's ID", authority.sign("spiffe://other.example/gateway"), "trust_domain_mismatch"),
            ("of an unknown trust domain", Authority().sign("spiffe://other.example/gateway"), "unknown_trust_domain"),
            ("no SPIFFE ID", authority.sign(), "certificate_no_spiffe_id"),
            ("a URI of another scheme", authority.sign("https://example.org/gateway"), "spiffe_id_scheme"),
            ("two SPIFFE IDs", authority.sign(spiffe, spiffe + "2"), "certificate_several_uris"),
            ("expired", authority.sign(spiffe, starts=-2 * hour, lifetime=-hour), "certificate_expired"),
            ("not yet valid", authority.sign(spiffe, starts=hour, lifetime=2 * hour), "certificate_not_yet_valid"),
            (
                "for servers",
                authority.sign(spiffe, purposes=[ExtendedKeyUsageOID.SERVER_AUTH]),
                "certificate_no_client_auth",
            ),
            ("for no purpose", authority.sign(spiffe, purposes=None), "certificate_extended_key_usage_missing"),
            ("an authority's", authority.sign(spiffe, ca=True), "certificate_is_authority"),
            (
                "that may sign others",
                authority.sign(spiffe, usage=["digital_signature", "key_cert_sign"]),
                "certificate_key_cert_sign",
            ),
        ]
        for what, identity, _ in cases:
            caller = Caller(self.process, identity)
            try:
                self.tokenize(caller, "pan", b"1")
                self.checks.check(f"UNAVAILABLE: certificate: {what}", False, "it was answered")
            except grpc.RpcError as error:
                self.is_(f"UNAVAILABLE: certificate: {what}", error.code(), Code.UNAVAILABLE)
            caller.channel.close()
        wanted = {(reason, identity.fingerprint if identity else b"") for _, identity, reason in cases}
        seen = lambda: {
            (event.reason, event.certificate_sha256)
            for event in self.events(action=self.e.ACTION_CONNECT, outcome=self.e.OUTCOME_DENIED, page_size=1000).events
        }
        self.until("failed handshakes are in the log, with reason and fingerprint", lambda: wanted <= seen())
        self.is_("failed handshakes: none is missing", wanted - seen(), set())
        # A method that is none is counted under CONNECT, too. Its reason is one of a call, and was answered.
        of_calls = {reason for reason, _ in SEEN}
        SEEN_HANDSHAKES.update(reason for reason, _ in seen() if reason not in of_calls)

    def expires_on_a_connection(self):
        """T-11: a certificate that expires ends what a connection made with it may do."""
        # Long enough to connect with, also where the machine is slow.
        for lifetime in (4, 20, 60):
            id, lifetime = f"spiffe://{DOMAIN}/gateway/short-{lifetime}", datetime.timedelta(seconds=lifetime)
            caller = Caller(self.process, self.vault.authority.sign(id, lifetime=lifetime))
            with contextlib.suppress(grpc.RpcError):
                answer = self.tokenize(caller, "pan", b"1")
                break
        self.checks.check("OK: a certificate that will expire soon", bool(answer.results[0].issued.token))
        codes = []

        def turned_away():
            try:
                self.tokenize(caller, "pan", b"1")
            except grpc.RpcError as error:
                codes.append(Answer(error))
            return bool(codes)

        self.until("a certificate that has expired on a connection is turned away", turned_away)
        answer = codes[0]
        found = (answer.code, answer.info.reason if answer.info else None)
        self.is_(
            "UNAUTHENTICATED: the certificate expired meanwhile", found, (Code.UNAUTHENTICATED, "CERTIFICATE_EXPIRED")
        )
        denied = {"caller": caller.id, "outcome": self.e.OUTCOME_DENIED}
        reasons = lambda: {event.reason for event in self.events(**denied).events}
        self.until("being turned away is in the log", lambda: "CERTIFICATE_EXPIRED" in reasons())

    def tls(self, directory):
        """T-05 and the protocol's edges, with Python's own TLS."""
        chain, key = self.vault.identity("gateway").write(directory, "tls")

        def context(**settings):
            made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            made.load_verify_locations(self.vault.path / "pki" / "ca.pem")
            made.load_cert_chain(chain, key)
            made.set_alpn_protocols(settings.pop("alpn", ["h2"]))
            for name, value in settings.items():
                setattr(made, name, value)
            return made

        def connect(made, session=None):
            with socket.create_connection(("127.0.0.1", self.process.port), timeout=PATIENCE) as tcp:
                with made.wrap_socket(tcp, server_hostname="localhost", session=session) as tls:
                    # Preface and empty SETTINGS. What the server says first comes after its tickets, had it any.
                    tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
                    frame = tls.recv(9)
                    return tls.version(), tls.selected_alpn_protocol(), tls.session, tls.session_reused, frame

        made = context()
        version, protocol, session, reused, frame = connect(made)
        self.is_("T-05: TLS 1.3 and h2", (version, protocol), ("TLSv1.3", "h2"))
        self.is_("T-05: the first frame is SETTINGS", frame[3:4], b"\4")
        self.is_("T-05: no session ticket", (session.has_ticket, session.ticket_lifetime_hint), (False, 0))
        self.is_("T-05: not resumed", reused, False)
        for attempt in range(3):
            self.is_(f"T-05: not resumed when tried, attempt {attempt + 1}", connect(made, session)[3], False)
        old = context(maximum_version=ssl.TLSVersion.TLSv1_2)
        for what, settings, alert in [
            ("TLS 1.2", old, "alert protocol version"),
            ("no h2 among the protocols", context(alpn=["http/1.1"]), "alert no application protocol"),
        ]:
            try:
                connect(settings)
                self.checks.check(f"handshake fails: {what}", False, "it succeeded")
            except ssl.SSLError as error:
                self.checks.check(f"handshake fails: {what}", alert in str(error).lower(), str(error))
        bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        bare.load_verify_locations(self.vault.path / "pki" / "ca.pem")
        bare.set_alpn_protocols(["h2"])
        try:
            connect(bare)
            self.checks.check("handshake fails: no certificate", False, "it succeeded")
        except ssl.SSLError as error:
            self.checks.check(
                "handshake fails: no certificate", "alert certificate required" in str(error).lower(), str(error)
            )

    # === helpers ===

    def state(self, operator, token):
        return self.t.TokenState.Name(self.inspect(operator, "pan", token).results[0].info.state)

    def last(self, caller):
        return self.events(caller=caller.id, newest_first=True, page_size=1).events[0]

    def until(self, what, holds):
        """Asks again and again; a hang ends at a number that nothing right comes near."""
        deadline = datetime.datetime.now() + datetime.timedelta(seconds=PATIENCE)
        while datetime.datetime.now() < deadline:
            if holds():
                self.checks.check(what, True)
                return
        self.checks.check(what, False, "it never happened")


SECTIONS = (
    Client.tokenizes,
    Client.tokenize_items,
    Client.tokenize_refusals,
    Client.detokenizes,
    Client.detokenize_items,
    Client.detokenize_refusals,
    Client.inspects,
    Client.revokes,
    Client.renewals,
    Client.repeats,
    Client.edges,
    Client.proofs,
    Client.streams,
    Client.uuids,
    Client.queries,
    Client.summaries,
    Client.health,
    Client.reflection,
    Client.transport,
    Client.certificates,
    Client.expires_on_a_connection,
)


def overload(checks, process, vault):
    """With room for one call in the queue, many at once are told to come back, and those that are answered hold."""
    client = Client(checks, vault, process)
    gateway, payments = client.new("gateway"), client.new("payments")
    request = client.t.TokenizeRequest(scope="pan", items=[client.item()] * 100)
    answers, refusals = [], []
    for _ in range(100):
        calls = [gateway.tokens.Tokenize.future(request, timeout=PATIENCE) for _ in range(200)]
        for call in calls:
            try:
                answers.append(call.result())
            except grpc.RpcError as error:
                refusals.append(Answer(error))
        if refusals:
            break
    kinds = {(answer.code, answer.info.reason if answer.info else None) for answer in refusals}
    client.is_("RESOURCE_EXHAUSTED: a full queue", kinds, {(Code.RESOURCE_EXHAUSTED, "OVERLOADED")})
    delays = [answer.retry.ToMilliseconds() if answer.retry else 0 for answer in refusals]
    checks.check("RESOURCE_EXHAUSTED: with RetryInfo", bool(delays) and all(delay > 0 for delay in delays))
    tokens = [result.issued.token for answer in answers for result in answer.results]
    opened = [client.detokenize(payments, "pan", *tokens[n : n + 1000]) for n in range(0, len(tokens), 1000)]
    values = [result.value for answer in opened for result in answer.results]
    what = "RESOURCE_EXHAUSTED: what was answered is there"
    checks.check(what, len(values) > 0 and set(values) == {b"4111111111111111"}, f"{len(values)} values")


def unwritable(checks, process, vault):
    """Its disk fails at some commit: that call and all later ones are UNAVAILABLE, and the vault ends."""
    client = Client(checks, vault, process)
    gateway = client.new("gateway")
    tokens, answer = [], None
    for _ in range(1000):
        try:
            tokens += client.issue(gateway, "pan", b"4111111111111111")
        except grpc.RpcError as error:
            answer = Answer(error)
            break
    found = (answer.code, answer.info.reason if answer.info else None) if answer else None
    client.is_("UNAVAILABLE: the log can't be written", found, (Code.UNAVAILABLE, "UNAVAILABLE"))
    checks.check("UNAVAILABLE: after calls that were answered", len(tokens) > 0)
    try:
        client.issue(gateway, "pan", b"1")
        checks.check("UNAVAILABLE: nothing succeeds afterwards", False, "it was answered")
    except grpc.RpcError as error:
        client.is_("UNAVAILABLE: nothing succeeds afterwards", error.code(), Code.UNAVAILABLE)
    client.is_("UNAVAILABLE: the vault ends by itself", process.process.wait(PATIENCE), 74)
    return tokens


def afterwards(checks, process, vault, tokens):
    """What was answered before the disk failed is there."""
    client = Client(checks, vault, process)
    answer = client.detokenize(client.new("payments"), "pan", *tokens)
    values = [result.value for result in answer.results]
    client.is_("UNAVAILABLE: what was answered before is kept", values, [b"4111111111111111"] * len(tokens))


def stopped(checks, process, vault):
    """Nobody is there."""
    client = Client(checks, vault, process)
    try:
        client.issue(client.new("gateway"), "pan", b"1")
        checks.check("UNAVAILABLE: the vault is stopped", False, "it was answered")
    except grpc.RpcError as error:
        client.is_("UNAVAILABLE: the vault is stopped", error.code(), Code.UNAVAILABLE)


# Eight lost races in a row, events of last year, and a fault in the vault: not to be had from outside.
NOT_REACHED = {("BASIS_CHANGED", "ABORTED"), ("EVENTS_DROPPED", "FAILED_PRECONDITION"), ("INTERNAL", "INTERNAL")}


def documented(checks, errors):
    """What was answered is what docs/errors.md lists: nothing more, and nothing less."""
    text = errors.read_text(encoding="utf-8")
    calls, handshakes = text.split("\n## Before any call", 1)
    listed = set(re.findall(r"^\| `([A-Z_]+)` \| ([A-Z_]+) \|", calls, re.MULTILINE))
    checks.check("docs/errors.md lists every reason that was answered", listed >= SEEN, str(sorted(SEEN - listed)))
    missing = listed - SEEN - NOT_REACHED
    checks.check(
        "every reason that docs/errors.md lists was answered", bool(listed) and not missing, str(sorted(missing))
    )
    words = set(re.findall(r"`([a-z_0-9]+)`", handshakes))
    checks.check(
        "docs/errors.md lists every reason of a failed handshake",
        bool(SEEN_HANDSHAKES) and words >= SEEN_HANDSHAKES,
        str(sorted(SEEN_HANDSHAKES - words)),
    )
    print(f"      {len(SEEN)} reasons answered, {len(SEEN_HANDSHAKES)} of failed handshakes")


def foreign_token(prefix):
    """A well-formed token that no vault has issued."""
    from open_record import BODY_DIGITS, base62, checksum, number

    body = base62(number(os.urandom(20)), BODY_DIGITS)
    return f"{prefix}_{body}{checksum(prefix, body)}"


def shape_of(file):
    """A file's services and messages without what compilers write differently (json names, file options)."""
    for message in file.message_type:
        strip(message)
    return (
        file.name,
        file.package,
        sorted(file.dependency),
        [message.SerializeToString(deterministic=True) for message in file.message_type],
        [enum.SerializeToString(deterministic=True) for enum in file.enum_type],
        [service.SerializeToString(deterministic=True) for service in file.service],
    )


def strip(message):
    for part in message.field:
        part.ClearField("json_name")
    for nested in message.nested_type:
        strip(nested)
