"""Writes every mutant of a list into one copy of the source, each behind a switch."""

import pathlib
import re
from collections import defaultdict

import tree_sitter_rust
from tree_sitter import Language, Parser

PARSER = Parser(Language(tree_sitter_rust.language()))

# What is asked at run time which mutant is on can't be `const`. These have to be, for they make constants.
NEEDED_CONST = {"from_millis", "name", "values"}

RUNTIME = pathlib.Path(__file__).with_name("mutant.rs")


def offset(lines, place):
    """The byte at a place, which counts lines and characters from 1."""
    before = sum(len(line) for line in lines[: place["line"] - 1])
    return before + len(lines[place["line"] - 1].decode()[: place["column"] - 1].encode())


class File:
    """One file of the source with its mutants."""

    def __init__(self, path, mutants):
        self.source = path.read_bytes()
        lines = self.source.splitlines(keepends=True)
        self.by_node = defaultdict(list)
        self.lost = []
        self.root = PARSER.parse(self.source).root_node
        for mutant in mutants:
            start, end = (offset(lines, mutant["span"][k]) for k in ("start", "end"))
            node = self.place(mutant, start, end)
            if node is None:
                self.lost.append(mutant)
            else:
                self.by_node[node.id].append(mutant)

    def place(self, mutant, start, end):
        """The node that has to be written differently."""
        node = self.root.descendant_for_byte_range(start, max(start, end - 1))
        wanted = {
            "BinaryOperator": ("binary_expression", "compound_assignment_expr"),
            "UnaryOperator": ("unary_expression",),
            "MatchArm": ("match_arm",),
            "MatchArmGuard": ("match_pattern",),
            "StructField": ("struct_expression",),
            "FnValue": ("function_item",),
        }[mutant["genre"]]
        while node is not None and node.type not in wanted:
            node = node.parent
        if node is None:
            return None
        if mutant["genre"] == "StructField":
            mutant["cut"] = (start, end)
        if node.type == "match_arm":
            if node.start_byte != start:
                return None
            node = next(child for child in node.children if child.type == "match_pattern")
        if node.type == "binary_expression" and has_let(node):
            return None
        return node

    def text(self, start, end):
        return self.source[start:end].decode()

    def plain(self, node):
        return self.text(node.start_byte, node.end_byte)

    def children(self, node, start=None):
        """The node's text with the switches inside it."""
        at = node.start_byte if start is None else start
        out = []
        for child in node.children:
            if child.start_byte < at:
                continue
            out.append(self.text(at, child.start_byte))
            out.append(self.emit(child))
            at = child.end_byte
        out.append(self.text(at, node.end_byte))
        return "".join(out)

    def emit(self, node):
        if node.type == "function_modifiers" and self.name_of(node.parent) not in NEEDED_CONST:
            return self.plain(node).replace("const", "")
        mutants = self.by_node.get(node.id)
        if not mutants:
            return self.children(node)
        kind = node.type
        if kind == "function_item":
            body = node.child_by_field_name("body")
            head = "".join(
                [self.text(node.start_byte, node.start_byte)]
                + [self.gap_and(child, node) for child in node.children if child.end_byte <= body.start_byte]
            )
            switches = "".join(
                f" if crate::mutant::on({m['number']}) {{ return {m['replacement']}; }}" for m in mutants
            )
            return head + self.text(body.prev_sibling.end_byte, body.start_byte) + "{" + switches + self.children(
                body, body.start_byte + 1
            )
        if kind == "match_pattern":
            condition = node.child_by_field_name("condition")
            pattern = self.text(node.start_byte, node.children[0].end_byte)
            last = [c for c in node.children if condition is None or c.end_byte <= condition.start_byte and c.type != "if"]
            pattern = self.text(node.start_byte, last[-1].end_byte)
            if condition is not None and condition.type in ("let_condition", "let_chain"):
                self.lost += mutants
                return self.children(node)
            terms = [f"!crate::mutant::on({m['number']})" for m in mutants if m["genre"] == "MatchArm"]
            terms += [f"!crate::mutant::on({m['number']})" for m in mutants if m["replacement"] == "false"]
            if condition is not None:
                ons = [f"crate::mutant::on({m['number']}) || " for m in mutants if m["replacement"] == "true"]
                terms.append("(" + "".join(ons) + "(" + self.emit(condition) + "))")
            return f"{pattern} if {' && '.join(terms)}"
        out = []
        for m in mutants:
            if kind in ("binary_expression", "compound_assignment_expr"):
                left, right = node.child_by_field_name("left"), node.child_by_field_name("right")
                other = f"{self.plain(left)} {m['replacement']} {self.plain(right)}"
            elif kind == "unary_expression":
                other = self.plain(node.children[-1])
            else:
                start, end = m["cut"]
                other = self.text(node.start_byte, start) + self.text(end, node.end_byte).lstrip().removeprefix(",")
            out.append(f"if crate::mutant::on({m['number']}) {{ {other} }} else ")
        return "(" + "".join(out) + "{ " + self.children(node) + " })"

    def name_of(self, function):
        return self.plain(function.child_by_field_name("name"))

    def gap_and(self, child, parent):
        before = child.prev_sibling.end_byte if child.prev_sibling is not None else parent.start_byte
        return self.text(before, child.start_byte) + self.emit(child)


def has_let(node):
    """Whether an operand is a pattern: `if let Some(x) = y && z` is no expression that can be put behind a switch."""
    return node.type in ("let_condition", "let_chain") or any(has_let(child) for child in node.children if child.type in ("binary_expression", "let_condition", "let_chain"))


def write(tree, mutants):
    """Overwrites the source in `tree`. Returns the mutants that are in, by number, and the numbers of those that can't be."""
    files = defaultdict(list)
    for mutant in mutants:
        files[mutant["file"]].append(mutant)
    known, lost = {}, set()
    for name, own in files.items():
        file = File(tree / name, own)
        text = file.emit(file.root)
        text = file.text(0, file.root.start_byte) + text + file.text(file.root.end_byte, len(file.source))
        (tree / name).write_text(text)
        lost |= {mutant["number"] for mutant in file.lost}
        known |= {mutant["number"]: mutant for mutant in own if mutant["number"] not in lost}
    lib = tree / "src/lib.rs"
    lib.write_text(lib.read_text() + "\n#[allow(missing_docs)]\npub mod mutant;\n")
    (tree / "src/mutant.rs").write_text(RUNTIME.read_text())
    return known, lost


def blamed(tree, messages):
    """The numbers of the mutants in which the compiler found errors."""
    roots, found = {}, set()
    for message in messages:
        if message.get("reason") != "compiler-message" or message["message"]["level"] != "error":
            continue
        for span in message["message"]["spans"]:
            path = tree / span["file_name"]
            if span["file_name"].startswith("/"):
                continue
            if path not in roots:
                source = path.read_bytes()
                roots[path] = source, PARSER.parse(source).root_node
            source, root = roots[path]
            found |= around(source, root, span["byte_start"], span["byte_end"], span["is_primary"])
    return found


def around(source, root, start, end, primary):
    """The mutants that have this stretch of the text, or stand in it."""
    numbers = lambda begin, stop: {int(n) for n in re.findall(rb"mutant::on\((\d+)\)", source[begin:stop])}
    found = numbers(start, end) if primary and end - start < 60 else set()
    node = root.descendant_for_byte_range(start, max(start, end - 1))
    while node is not None:
        parent = node.parent
        if parent is not None and parent.type == "if_expression" and node.type == "block":
            condition = parent.child_by_field_name("condition")
            is_mutant = parent.child_by_field_name("consequence").id == node.id
            text = source[condition.start_byte : condition.end_byte]
            if is_mutant and re.fullmatch(rb"crate::mutant::on\(\d+\)", text):
                found |= numbers(condition.start_byte, condition.end_byte)
        node = parent
    if not found and primary:
        # The smallest piece around it that has a switch in it.
        node = root.descendant_for_byte_range(start, max(start, end - 1))
        while node is not None and not numbers(node.start_byte, node.end_byte):
            node = node.parent
        if node is not None and node.type not in ("source_file", "declaration_list", "impl_item", "mod_item"):
            found |= numbers(node.start_byte, node.end_byte)
    return found
