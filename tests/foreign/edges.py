"""The edges of the contract, line by line: what happens at each, and what the log says of it.

Each row is a case in words and a function that tells what happened and what had to happen. All of them run against one
vault, each with callers of its own.
"""

DAY = 86_400
CARD = b"4111111111111111"


class Edges:
    """The cases. What a method returns is compared; what it has to be stands beside it."""

    def __init__(self, client, words):
        self.client, self.words = client, words
        self.t, self.e, self.r = client.t, client.e, client.r

    def who(self, role):
        return self.client.new(role)

    def outcomes(self, caller, receipt):
        return [self.e.ItemOutcome.Name(o)[13:] for o in self.client.event(caller, receipt.sequence).item_outcomes]

    def errors(self, results):
        return [self.words.item_error(result) for result in results]

    def tried(self, call):
        """Status, reason and fields of a call that fails."""
        answer = self.client.failure(call)
        return (answer.code.name, answer.info.reason, answer.violations) if answer else "it was answered"

    def lifetimes_at_issue(self):
        items = [self.client.item(ttl=ttl) for ttl in [(400 * DAY, 1_000_000), (0, 0), (-1, 0), (400 * DAY, 0)]]
        return self.errors(self.client.tokenize(self.who("gateway"), "pan", *items).results)

    def lifetimes_at_renewal(self):
        operator, [token] = self.who("operator"), self.client.issue(self.who("gateway"), "pan", CARD)
        ttls = [400 * DAY + 1, 0, -1, 60]
        return [self.errors(self.client.renew(operator, "pan", token, seconds=ttl).results)[0] for ttl in ttls]

    def renewal(self):
        operator, [token] = self.who("operator"), self.client.issue(self.who("gateway"), "pan", CARD)
        lifetimes = []
        for seconds in (3600, None):
            answer = self.client.renew(operator, "pan", token, seconds=seconds)
            moment = self.words.seconds(self.client.event(operator, answer.receipt.sequence).time)
            # The event is written a moment after the decision.
            lifetimes.append(round((self.words.seconds(answer.results[0].expire_time) - moment) / 60) * 60)
        self.client.revoke(operator, "pan", token)
        return lifetimes, self.errors(self.client.renew(operator, "pan", token).results)

    def revoked_again(self):
        operator, [token] = self.who("operator"), self.client.issue(self.who("gateway"), "pan", CARD)
        times = [self.client.revoke(operator, "pan", token).results[0].revoke_time for _ in range(3)]
        return times[1] == times[0] and times[2] == times[0]

    def uses(self):
        payments, gateway = self.who("payments"), self.who("gateway")
        [token] = self.client.issue(gateway, "pan", self.client.item(max_uses=3))
        masked = self.client.detokenize(payments, "pan", token, reveal=self.r.REVEAL_MASKED)
        answer = self.client.detokenize(payments, "pan", token, token, token)
        shown = [bool(result.value) for result in [*masked.results, *answer.results]]
        return shown, self.outcomes(payments, masked.receipt), self.outcomes(payments, answer.receipt)

    def all_or_nothing(self):
        gateway = self.who("gateway")
        items = [CARD, self.client.item(b""), CARD, self.client.item(ttl=(0, 0))]
        call = lambda: self.client.tokenize(gateway, "pan", *items, all_or_nothing=True)
        said = self.tried(call)
        event = self.client.last(gateway)
        return said, self.e.Outcome.Name(event.outcome), len(event.handles), event.succeeded

    def sizes(self):
        gateway = self.who("gateway")
        calls = [
            lambda: self.client.tokenize(gateway, "pan"),
            lambda: self.client.tokenize(gateway, "pan", *[CARD] * 1001),
        ]
        results = self.client.tokenize(gateway, "pan", b"", b"x" * 65_537, b"x" * 65_536, b"x").results
        thousand = self.client.tokenize(gateway, "pan", *[b"x"] * 1000).results
        return [self.tried(call) for call in calls], self.errors(results), len(thousand)

    def purposes(self):
        tester = self.who("tester")
        [token] = self.client.issue(tester, "foreign/extra", CARD)
        said = []
        for purpose in ["", "x" * 65, "ticket 123456789", "a;b", "refund: order 1234567/9-x", "x" * 64]:
            call = lambda: self.client.detokenize(tester, "foreign/extra", token, purpose=purpose)
            said.append(self.tried(call))
        return said

    def reasons(self):
        operator, [token] = self.who("operator"), self.client.issue(self.who("gateway"), "pan", CARD)
        revoke = lambda reason: self.tried(lambda: self.client.revoke(operator, "pan", token, reason=reason))
        return [revoke(reason) for reason in ["x" * 65, "4111111111111111", "lost: OPS-42", ""]]

    def streams(self):
        gateway = self.who("gateway")
        batch = lambda scope, *values: self.t.StreamTokenizeRequest(
            batch=self.t.TokenizeRequest(scope=scope, items=[self.t.TokenizeItem(value=value) for value in values])
        )
        batches = [batch("pan", CARD), batch("ssn", b"1", b""), batch("pan", CARD, CARD)]
        answers = [a.batch for a in gateway.tokens.StreamTokenize(iter(batches), timeout=self.words.PATIENCE)]
        events = [self.client.event(gateway, answer.receipt.sequence) for answer in answers]
        said = [(event.scope, event.requested, event.succeeded, len(event.policies)) for event in events]
        sequences = [answer.receipt.sequence for answer in answers]
        return said, sequences == sorted(set(sequences))

    def denied(self):
        stranger, tokens = self.who("stranger"), self.client.issue(self.who("gateway"), "pan", *[CARD] * 150)
        said = self.tried(lambda: self.client.detokenize(stranger, "pan", *tokens))
        event = self.client.last(stranger)
        return said, len(event.handles), event.requested, len(event.item_outcomes)

    def unknown_options(self):
        tester = self.who("tester")
        [token] = self.client.issue(tester, "foreign/extra", CARD)
        call = lambda: self.client.detokenize(tester, "foreign/extra", token, nonce=b"once")
        subject = self.client.tokenize(tester, "foreign/extra", self.client.item(subject="alice")).results
        return self.tried(call), self.errors(subject)

    def masks(self):
        tester, values = self.who("payments"), [CARD, b"12", "äöüäöüäöü€€€ß".encode(), b"\xff" * 13]
        tokens = self.client.issue(self.who("gateway"), "pan", *values)
        answer = self.client.detokenize(tester, "pan", *tokens, reveal=self.r.REVEAL_MASKED)
        return [result.value for result in answer.results]

    def table(self):
        not_found, invalid = self.words.NOT_FOUND, self.words.invalid_item
        bad_purpose = ("INVALID_ARGUMENT", "PURPOSE_MALFORMED", ["purpose"])
        bad_reason = ("INVALID_ARGUMENT", "REASON_MALFORMED", ["reason"])
        wrong_lifetimes = [invalid(w) for w in ("LIFETIME_TOO_LONG", "LIFETIME_NOT_POSITIVE", "LIFETIME_NOT_POSITIVE")]
        answered = "it was answered"
        released, used_up = "RELEASED", "USED_UP"
        return [
            ("a lifetime above the ceiling, zero, negative: the item is refused, never cut", self.lifetimes_at_issue, [*wrong_lifetimes, None]),
            ("the same when a token is renewed", self.lifetimes_at_renewal, [*wrong_lifetimes, None]),
            ("renewal: from now on, for the default if none is given; a dead token is not found", self.renewal, ([3600, 30 * DAY], [not_found])),
            ("revoking again: OK, with the first time", self.revoked_again, True),
            (
                "a use for each item released, in full or masked; twice in a batch counts twice, in order",
                self.uses,
                ([True, True, True, False], ["MASKED"], [released, released, used_up]),
            ),
            (
                "all or nothing, and items are bad: named, nothing issued, and the event says FAILED",
                self.all_or_nothing,
                (("INVALID_ARGUMENT", "ALL_OR_NOTHING", ["items[1]", "items[3]"]), "OUTCOME_FAILED", 0, 0),
            ),
            (
                "an empty batch, more than 1,000 items, an empty value, one over the scope's size",
                self.sizes,
                (
                    [("INVALID_ARGUMENT", "BATCH_EMPTY", ["items"]), ("INVALID_ARGUMENT", "BATCH_TOO_LARGE", ["items"])],
                    [invalid("VALUE_EMPTY"), invalid("VALUE_TOO_LARGE"), None, None],
                    1000,
                ),
            ),
            (
                "a purpose is required, and 1 to 64 of few characters with at most eight digits",
                self.purposes,
                [("INVALID_ARGUMENT", "PURPOSE_REQUIRED", ["purpose"]), bad_purpose, bad_purpose, bad_purpose, answered, answered],
            ),
            ("so is a reason, which may be left out", self.reasons, [bad_reason, bad_reason, answered, answered]),
            (
                "streams: each batch has its own decision, event and receipt",
                self.streams,
                ([("pan", 1, 1, 1), ("ssn", 2, 1, 1), ("pan", 2, 2, 1)], True),
            ),
            (
                "a denied call: up to 100 handles, and the count",
                self.denied,
                (("PERMISSION_DENIED", "POLICY_DENIED", None), 100, 150, 0),
            ),
            (
                "an option that does not exist yet: refused, never ignored",
                self.unknown_options,
                (("UNIMPLEMENTED", "NOT_IMPLEMENTED", ["nonce"]), [invalid("SUBJECT_UNSUPPORTED")]),
            ),
            (
                "masks: characters if it is UTF-8, else bytes; the length kept; a third and four hidden, or all",
                self.masks,
                [b"411111******1111", b"**", b"*" * 13, b"*" * 13],
            ),
        ]

    def run(self):
        for what, happens, expected in self.table():
            self.client.is_(f"edge: {what}", happens(), expected)
