"""Lists the mutants, compiles all of them into one program, and asks the tests about each. See README.md."""

import hashlib
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
# The source as it was at the start, so that it can be worked on while this runs, and the copy with the switches.
SOURCE = WORK / "source"
TREE = WORK / "tree"
# What became of each mutant of the last run.
OUTCOMES = WORK / "outcomes.json"
MODULES = (
    "secret clock merkle crypto token scope event verify caller policy limits keys ledger witness store grpc/guard".split()
)
# Tests of other modules that use these.
ALSO_TESTS_OF = ["vault", "grpc"]
JOBS = int(os.environ.get("JOBS", "2"))
# Seconds from which on a test is slow. Slow ones are asked only by LONG=1.
SLOW = 3600.0 if os.environ.get("LONG") else 5.0
# A mutant may allocate without end.
MOST_BYTES = 6_000_000_000


def listed():
    """The mutants as cargo-mutants lists them, without those that mutants.json justifies."""
    command = [REPOSITORY / "target/tools/bin/cargo-mutants", "mutants", "--list", "--json"]
    for module in MODULES:
        command += ["--file", f"src/{module}.rs", "--file", f"src/{module}/**/*.rs"]
    mutants = json.loads(subprocess.check_output(command, cwd=SOURCE))
    for number, mutant in enumerate(mutants, 1):
        mutant["number"] = number
    return mutants


def placeless(mutant):
    """Its name without line and column, which change with every line in front of it."""
    return re.sub(r":\d+:\d+: ", ": ", mutant["name"], count=1)


def justified(mutant):
    """The reason why no test can notice it, if there is one."""
    return next((entry["reason"] for entry in EQUIVALENT if entry["mutant"] == placeless(mutant)), None)


def left_last():
    """The names of those that the last run missed or did not come to."""
    outcomes = json.loads(OUTCOMES.read_text())
    return {placeless({"name": name}) for name, outcome in outcomes.items() if not outcome or outcome[0] == "missed"}


EQUIVALENT = json.loads(pathlib.Path(__file__).with_name("equivalent.json").read_text())


# === compiling ===


def copy(source, to):
    """The repository's .cargo applies in the copy as it is: a second one would add its flags once more, and with other flags
    everything that this crate stands on would be built again."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(source, to, ignore=shutil.ignore_patterns("target", ".git", ".cargo"), symlinks=True)


def build(mutants):
    """The program with all mutants that compile behind a switch, and those that do not."""
    files = {name: hashlib.sha256((SOURCE / name).read_bytes()).hexdigest() for name in {m["file"] for m in mutants}}
    memory = WORK / "unviable.json"
    remembered = json.loads(memory.read_text()) if memory.exists() else {}
    # What did not compile last time does not compile now, as long as its file is the same.
    unviable = {m["number"] for m in mutants if remembered.get(m["name"]) == files[m["file"]]}
    while True:
        copy(SOURCE, TREE)
        known, lost = switch.write(TREE, [m for m in mutants if m["number"] not in unviable])
        command = "cargo test --release --locked --lib --no-run --message-format=json".split()
        # What a mutant makes of the code need not be nice.
        flags = {"CARGO_TARGET_DIR": str(REPOSITORY / "target"), "RUSTC_WORKSPACE_WRAPPER": str(wrapper())}
        profile = ["--config", "profile.release.package.cloakroom.opt-level=0"]
        built = subprocess.run(command + profile, cwd=TREE, env=os.environ | flags, stdout=subprocess.PIPE, text=True)
        messages = [json.loads(line) for line in built.stdout.splitlines() if line.startswith("{")]
        if built.returncode == 0:
            programs = [m["executable"] for m in messages if m.get("executable")]
            now = {m["name"]: files[m["file"]] for m in mutants if m["number"] in unviable}
            memory.write_text(json.dumps(remembered | now, indent=1))
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

    def __init__(self, program, of):
        self.program = program
        self.passed = {}
        self.past = defaultdict(set)
        # The test that caught the last mutant of a function: it likely catches the next one too.
        self.caught_last = {}
        names = subprocess.check_output([program, "--list"], cwd=TREE, text=True)
        self.names = [
            line.removesuffix(": test")
            for line in names.splitlines()
            if line.endswith(": test") and line.split("::")[0] in of
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
        command = [self.program, "--exact", name]
        try:
            ran = subprocess.run(command, cwd=TREE, env=environment, stdout=subprocess.PIPE, text=True, timeout=4 * SLOW)
        except subprocess.TimeoutExpired:
            print(f"== {name} is too slow to be asked", flush=True)
            return
        if ran.returncode != 0:
            raise SystemExit(f"{name} fails without any mutant:\n{ran.stdout}")
        if "1 passed" in ran.stdout:
            self.passed[name] = time.monotonic() - begin
            numbers = set(seen.read_text().split()) if seen.exists() else set()
            for number in numbers:
                self.past[int(number)].add(name)

    def slowest(self):
        named = sorted(self.passed.items(), key=lambda test: -test[1])[:8]
        return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in named)

    def ask(self, mutant):
        """What becomes of it."""
        tests = self.past[mutant["number"]]
        if not tests:
            return "missed", "no test comes here"
        module = mutant["file"].removeprefix("src/").removesuffix(".rs").replace("/", "::")
        near = sorted(tests, key=lambda test: (-common(test, module), self.passed[test]))
        near = [test for test in near if self.passed[test] < SLOW]
        function = (mutant["file"], (mutant.get("function") or {}).get("function_name"))
        first = [test for test in [self.caught_last.get(function)] if test in near]
        rest = [test for test in near if test not in first]
        for group in (first, rest[:4], rest[4:25], rest[25:]):
            if group:
                outcome = self.run(mutant["number"], group)
                if outcome[0] == "caught" and outcome[1] in near:
                    self.caught_last[function] = outcome[1]
                if outcome[0] != "missed":
                    return outcome
        return "missed", f"{len(near)} of {len(tests)} tests"

    def run(self, number, tests):
        environment = os.environ | {"MUTANT": str(number), "PROPTEST_MAX_SHRINK_ITERS": "0"}
        limit = 10 + 10 * sum(self.passed[test] for test in tests)
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
    failed = []

    def loop():
        while not failed:
            try:
                item = queue.get_nowait()
            except Empty:
                return
            try:
                work(item)
            except BaseException as error:
                failed.append(error)

    threads = [threading.Thread(target=loop) for _ in range(JOBS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def main():
    wanted = sys.argv[1:]
    copy(REPOSITORY, SOURCE)
    left = left_last() if "left" in wanted else set()
    wanted = [name for name in wanted if name != "left"]
    again = lambda m: placeless(m) in left and not justified(m)
    chosen = lambda m: again(m) or any(m["file"].startswith(f"src/{name}") for name in wanted)
    mutants = [m for m in listed() if not sys.argv[1:] or chosen(m)]
    reasons = {m["number"]: justified(m) for m in mutants}
    print(f"== {len(mutants)} mutants; compiling them", flush=True)
    program, known, lost, unviable = build(mutants)
    own = {m["file"].split("/")[1].removesuffix(".rs") for m in mutants}
    tests = Tests(program, own if os.environ.get("OWN") else own.union(MODULES, ALSO_TESTS_OF))
    print(f"== {len(known)} are in; {len(tests.names)} tests show where they go", flush=True)
    tests.record()
    print(f"== {sum(tests.passed.values()):.0f} s; the slowest: {tests.slowest()}", flush=True)
    outcomes = {}
    queue = Queue()
    order = [*(f"src/{name}" for name in wanted), "src/"]
    turn = lambda mutant: next(at for at, name in enumerate(order) if mutant["file"].startswith(name))
    for mutant in sorted(known.values(), key=turn):
        queue.put(mutant)

    def stop(*_):
        # What was asked so far is reported, the rest as not asked.
        print("== told to stop", flush=True)
        with queue.mutex:
            queue.queue.clear()

    signal.signal(signal.SIGTERM, stop)

    def one(mutant):
        outcomes[mutant["number"]] = tests.ask(mutant)
        if outcomes[mutant["number"]][0] == "missed" and not reasons[mutant["number"]]:
            print(f"missed: {mutant['name']}", flush=True)
        if len(outcomes) % 100 == 0:
            print(f"== {len(outcomes)} of {len(known)} asked", flush=True)

    run_in_parallel(queue, one)
    report(mutants, outcomes, lost, unviable, reasons)


def report(mutants, outcomes, lost, unviable, reasons):
    table = defaultdict(Counter)
    left = []
    for mutant in mutants:
        number, module = mutant["number"], mutant["file"].split("/")[1].removesuffix(".rs")
        otherwise = "unviable" if number in unviable else "not run" if number in lost else "not asked"
        outcome, by = outcomes.get(number, (otherwise, ""))
        if outcome == "missed" and reasons[number]:
            outcome = "equivalent"
        if outcome in ("missed", "not run"):
            left.append(f"{outcome}: {mutant['name']} ({by})")
        table[module][outcome] += 1
    OUTCOMES.write_text(json.dumps({m["name"]: outcomes.get(m["number"]) for m in mutants}, indent=1))
    columns = ["caught", "timeout", "missed", "equivalent", "unviable", "not run", "not asked"]
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
