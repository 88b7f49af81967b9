"""`cloakroom audit report`, held against a second computation and read by another parser.

The events are what `cloakroom audit query` prints as JSON Lines; what the report says of them is counted here once
more, in the simplest way. The page is read by Python's own HTML parser, which knows nothing of how it was written.
"""

import base64
import collections
import hashlib
import json
import os
import re
import subprocess
from html.parser import HTMLParser

from vault import PATIENCE

HOSTILE = "<script>alert(1)</script>\u202e\x1b[2J\"'&"


class Page(HTMLParser):
    """Tables by the heading of their section, and everything that could lead outside."""

    VOID = {"meta", "rect", "line", "br"}
    LEADS_OUTSIDE = {"src", "href", "xlink:href", "action", "data", "poster", "srcset", "background", "style"}

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.suspicious, self.tables, self.policy = collections.Counter(), [], {}, ""
        self.open, self.heading, self.cell, self.style, self.svgs = [], "", None, "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags[tag] += 1
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attributes.items():
            outside = re.search(r"(?i)(https?:|javascript:|//)", value or "")
            if name in self.LEADS_OUTSIDE or name.startswith("on") or outside:
                self.suspicious.append((tag, name, value))
        if attributes.get("http-equiv") == "Content-Security-Policy":
            self.policy = attributes["content"]
        if tag == "h2":
            self.heading = ""
        elif tag == "table" and self.heading not in self.tables:
            self.tables[self.heading] = []
        elif tag == "tr" and self.heading in self.tables:
            self.tables[self.heading].append([])
        elif tag in ("td", "th"):
            self.cell = ""
        elif tag == "svg":
            self.svgs.append({"role": attributes.get("role"), "by": attributes.get("aria-labelledby", "").split()})
        elif tag in ("title", "desc") and self.svgs and "id" in attributes:
            self.svgs[-1].setdefault("ids", []).append(attributes["id"])

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag in self.VOID:
            return
        while self.open and self.open[-1] != tag and self.open[-1] in ("p", "li"):
            self.open.pop()
        if not self.open or self.open.pop() != tag:
            self.suspicious.append((tag, "is closed and was not the last that was opened", ""))
        if tag in ("td", "th"):
            self.tables[self.heading][-1].append(self.cell)
            self.cell = None

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.heading += data
        if self.open and self.open[-1] == "style":
            self.style += data
        if self.cell is not None:
            self.cell += data


def run(vault, process, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLOAKROOM_")}
    environment["CLOAKROOM_ADDRESS"] = f"127.0.0.1:{process.port}"
    profile = str(vault.path / "profiles" / "auditor.toml")
    command = [str(vault.binary), "audit", *arguments, "--profile", profile]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"{arguments} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def counted(events):
    """The figures of a report, from its events."""
    sums, releases, denials = collections.Counter(), collections.Counter(), collections.Counter()
    for event in events:
        calls = event.get("count", 1)
        caller, scope = event.get("caller", ""), event.get("scope", "")
        if event["outcome"] == "DENIED":
            sums["denied_calls"] += calls
            denials[event["action"], scope, event.get("reason", "")] += calls
        elif event["outcome"] == "FAILED":
            sums["failed_calls"] += calls
        elif event["action"] == "DETOKENIZE":
            outcomes = collections.Counter(event.get("item_outcomes", []))
            full, masked = outcomes["RELEASED"], outcomes["MASKED"]
            sums["values_full"] += full
            sums["values_masked"] += masked
            sums["items_withheld"] += event["requested"] - full - masked
            sums["release_calls"] += calls
            key = caller, scope, event.get("purpose", "")
            releases[(*key, "full")] += full
            releases[(*key, "masked")] += masked
        elif event["action"] == "TOKENIZE":
            sums["tokens_issued"] += event["succeeded"]
            sums["change_calls"] += calls
        elif event["action"] in ("INSPECT", "RENEW", "REVOKE"):
            sums["change_calls"] += calls
        elif event["action"] == "QUERY_AUDIT":
            sums["question_calls"] += calls
        else:
            sums["operation_calls"] += calls
    return sums, +releases, denials


def check(checks, client, vault, process):
    gateway = client.new("gateway")
    for scope in (HOSTILE, "pan"):
        try:
            client.detokenize(gateway, scope, "pan_x")
        except Exception as refused:  # Denied: that is what is to be recorded.
            print(f"      {type(refused).__name__}")
    lines = run(vault, process, "query", "--limit", "0", "--output", "json")
    events = [json.loads(line) for line in lines.splitlines()]
    until = events[-1]["time"]
    sums, releases, denials = counted(event for event in events if event["time"] < until)
    report = json.loads(run(vault, process, "report", "--until", until, "--output", "json"))
    totals = {name: number for name, number in report["totals"].items() if number}
    checks.check("a report's sums are those of the events", dict(+sums) == totals, f"{dict(sums)} is not {totals}")
    told = collections.Counter()
    for row in report["releases"]:
        for kind in ("full", "masked"):
            told[row["caller"], row["scope"], row["purpose"], kind] += row[kind]
    same = +told == releases and len(releases) > 0
    checks.check("a report's releases are those of the events", same, f"{told} is not {releases}")
    told = collections.Counter()
    for row in report["denials"]:
        told[row["action"], row["scope"], row["reason"]] += row["calls"]
    same = told == denials and len(denials) > 0
    checks.check("a report's denials are those of the events", same, f"{told} is not {denials}")

    text = run(vault, process, "report", "--until", until, "--output", "html")
    page = Page(text)
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    checks.check("the page allows its own style and nothing else", page.policy == policy, page.policy)
    quiet = not page.suspicious and not page.open
    checks.check("the page leads nowhere and runs nothing", quiet, f"{page.suspicious} {page.open}")
    foreign = set(page.tags) & {"script", "img", "link", "iframe", "object", "embed", "form", "a", "image", "use"}
    checks.check("the page has no element that loads or runs", not foreign, str(foreign))
    named = all(svg["role"] == "img" and svg["by"] == svg.get("ids") for svg in page.svgs)
    checks.check("every chart has a title and words", named and len(page.svgs) >= 4, str(page.svgs))

    def number(cell):
        return int(cell.replace(",", ""))

    table = page.tables["Who got values, and what for"][1:]
    shown = [(number(row[3]), number(row[4]), number(row[5]), number(row[6])) for row in table]
    wanted = [(row["full"], row["masked"], row["withheld"], row["calls"]) for row in report["releases"]]
    checks.check("the page's table of releases is the JSON's", shown == wanted, f"{shown} {wanted}")
    table = page.tables["Values that left"][1:]
    points = [(number(row[1]), number(row[2])) for row in table]
    wanted = [(point["full"], point["masked"]) for point in report["points"]]
    checks.check("the figures beside the chart are the JSON's", points == wanted, f"{points} {wanted}")
    # The vault does not even write down a scope's name that can't be one.
    cells = [cell for rows in page.tables.values() for row in rows for cell in row]
    checks.check("what a caller made up is not on the page", not any("alert" in cell for cell in cells), str(cells))
    checks.check("and can't turn the page's writing", "\u202e" not in text and "\x1b" not in text)
