"""Lists the mutants, compiles all of them into one program, and asks the tests about each. See README.md."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from queue import Empty, Queue

import switch

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
WORK = REPOSITORY / "target/mutants"
TREE = WORK / "tree"
MODULES = "secret clock merkle crypto token scope event verify caller policy limits keys ledger witness".split()
# Tests of other modules that use these.
ALSO_TESTS_OF = ["vault", "store"]
JOBS = int(os.environ.get("JOBS", "2"))
# Seconds from which on a test is slow. Slow ones are asked only by LONG=1.
SLOW = float("inf") if os.environ.get("LONG") else 5.0
# A mutant may allocate without end.
MOST_BYTES = 6_000_000_000


def listed():
    """The mutants as cargo-mutants lists them, without those that mutants.json justifies."""
    command = [REPOSITORY / "target/tools/bin/cargo-mutants", "mutants", "--list", "--json"]
    for module in MODULES:
        command += ["--file", f"src/{module}.rs", "--file", f"src/{module}/**/*.rs"]
    mutants = json.loads(subprocess.check_output(command, cwd=REPOSITORY))
    for number, mutant in enumerate(mutants, 1):
        mutant["number"] = number
    return mutants


def justified(mutant):
    """The reason why no test can notice it, if there is one."""
    name = re.sub(r":\d+:\d+: ", ": ", mutant["name"], count=1)
    return next((entry["reason"] for entry in EQUIVALENT if entry["mutant"] == name), None)


EQUIVALENT = json.loads(pathlib.Path(__file__).with_name("equivalent.json").read_text())


# === compiling ===


def build(mutants):
    """The program with all mutants that compile behind a switch, and those that do not."""
    unviable = set()
    while True:
        shutil.rmtree(TREE, ignore_errors=True)
        ignored = shutil.ignore_patterns("target", ".git")
        shutil.copytree(REPOSITORY, TREE, ignore=ignored, symlinks=True)
        known, lost = switch.write(TREE, [m for m in mutants if m["number"] not in unviable])
        command = "cargo test --release --locked --lib --no-run --message-format=json".split()
        # What a mutant makes of the code need not be nice.
        flags = {"CARGO_TARGET_DIR": str(REPOSITORY / "target"), "RUSTC_WORKSPACE_WRAPPER": str(wrapper())}
        profile = ["--config", "profile.release.package.cloakroom.opt-level=0"]
        built = subprocess.run(command + profile, cwd=TREE, env=os.environ | flags, stdout=subprocess.PIPE, text=True)
        messages = [json.loads(line) for line in built.stdout.splitlines() if line.startswith("{")]
        if built.returncode == 0:
            programs = [m["executable"] for m in messages if m.get("executable")]
            return programs[-1], known, lost, unviable
        more = switch.blamed(TREE, messages) - unviable
        if not more:
            sys.exit("the copy does not compile, and no mutant is to blame: see the errors above")
        unviable |= more
        print(f"== {len(unviable)} do not compile", flush=True)


def wrapper():
    path = WORK / "rustc"
    path.write_text('#!/bin/sh\nexec "$@" --cap-lints allow\n')
    path.chmod(0o755)
    return path


# === asking the tests ===


class Tests:
    """Which test comes past which mutant, and how long it takes."""

    def __init__(self, program):
        self.program = program
        self.passed = {}
        self.past = defaultdict(set)
        names = subprocess.check_output([program, "--list"], cwd=TREE, text=True)
        self.names = [
            line.removesuffix(": test")
            for line in names.splitlines()
            if line.endswith(": test") and line.split("::")[0] in MODULES + ALSO_TESTS_OF
        ]

    def record(self):
        queue = Queue()
        for name in self.names:
            queue.put(name)
        run_in_parallel(queue, self.record_one)

    def record_one(self, name):
        seen = WORK / f"seen-{threading.get_ident()}"
        seen.unlink(missing_ok=True)
        environment = os.environ | {"MUTANT": "record", "MUTANT_SEEN": str(seen)}
        begin = time.monotonic()
        # With one test at a time every thread is this test's.
        ran = subprocess.run(
            [self.program, "--exact", name], cwd=TREE, env=environment, stdout=subprocess.PIPE, text=True, check=False
        )
        if ran.returncode != 0:
            sys.exit(f"{name} fails without any mutant")
        if "1 passed" in ran.stdout:
            self.passed[name] = time.monotonic() - begin
            numbers = seen.read_text().split() if seen.exists() else []
            for number in numbers:
                self.past[int(number)].add(name)

    def ask(self, mutant):
        """What becomes of it."""
        tests = self.past[mutant["number"]]
        if not tests:
            return "missed", "no test comes here"
        module = mutant["file"].removeprefix("src/").removesuffix(".rs").replace("/", "::")
        near = sorted(tests, key=lambda test: (-common(test, module), self.passed[test]))
        near = [test for test in near if self.passed[test] < SLOW]
        for group in (near[:25], near[25:]):
            if group:
                outcome = self.run(mutant["number"], group)
                if outcome[0] != "missed":
                    return outcome
        return "missed", f"{len(near)} of {len(tests)} tests"

    def run(self, number, tests):
        environment = os.environ | {"MUTANT": str(number), "PROPTEST_MAX_SHRINK_ITERS": "0"}
        limit = 60 + 10 * sum(self.passed[test] for test in tests)
        process = subprocess.Popen(
            ["prlimit", f"--as={MOST_BYTES}", self.program, "--exact", *tests],
            cwd=TREE,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        late = threading.Event()
        timer = threading.Timer(limit, lambda: (late.set(), os.killpg(process.pid, signal.SIGKILL)))
        timer.start()
        failed, whole = None, False
        for line in process.stdout:
            if line.startswith("test ") and line.rstrip().endswith("FAILED"):
                failed = line.split()[1]
                os.killpg(process.pid, signal.SIGKILL)
                break
            whole = whole or line.startswith("test result: ok")
        process.wait()
        timer.cancel()
        if failed:
            return "caught", failed
        if late.is_set():
            return "timeout", f"{limit:.0f} s"
        return ("missed", "") if whole else ("caught", f"the process ended with {process.returncode}")


def common(test, module):
    pairs = zip(test.split("::"), module.split("::"))
    return next((at for at, (one, other) in enumerate(pairs) if one != other), len(module.split("::")))


def run_in_parallel(queue, work):
    def loop():
        while True:
            try:
                work(queue.get_nowait())
            except Empty:
                return

    threads = [threading.Thread(target=loop) for _ in range(JOBS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main():
    wanted = sys.argv[1:]
    mutants = [m for m in listed() if not wanted or any(m["file"].startswith(f"src/{name}") for name in wanted)]
    reasons = {m["number"]: justified(m) for m in mutants}
    print(f"== {len(mutants)} mutants; compiling them", flush=True)
    program, known, lost, unviable = build(mutants)
    tests = Tests(program)
    print(f"== {len(known)} are in; {len(tests.names)} tests show where they go", flush=True)
    tests.record()
    outcomes = {}
    queue = Queue()
    for mutant in known.values():
        queue.put(mutant)

    def one(mutant):
        outcomes[mutant["number"]] = tests.ask(mutant)

    run_in_parallel(queue, one)
    report(mutants, outcomes, lost, unviable, reasons)


def report(mutants, outcomes, lost, unviable, reasons):
    table = defaultdict(Counter)
    left = []
    for mutant in mutants:
        number, module = mutant["number"], mutant["file"].split("/")[1].removesuffix(".rs")
        outcome, by = outcomes.get(number, ("unviable" if number in unviable else "not run", ""))
        if outcome == "missed" and reasons[number]:
            outcome = "equivalent"
        if outcome in ("missed", "not run"):
            left.append(f"{outcome}: {mutant['name']} ({by})")
        table[module][outcome] += 1
    (WORK / "outcomes.json").write_text(json.dumps({m["name"]: outcomes.get(m["number"]) for m in mutants}, indent=1))
    columns = ["caught", "timeout", "missed", "equivalent", "unviable", "not run"]
    print("| module | mutants | " + " | ".join(columns) + " | caught of those that count |")
    print("| --- " * (len(columns) + 3) + "|")
    for module, counts in table.items():
        caught = counts["caught"] + counts["timeout"]
        counted = caught + counts["missed"]
        share = f"{100 * caught / counted:.1f} %" if counted else ""
        cells = [sum(counts.values()), *(counts[column] for column in columns), share]
        print(f"| {module} | " + " | ".join(map(str, cells)) + " |")
    print("\n".join(left))


main()
