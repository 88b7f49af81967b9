"""Reads SPIFFE IDs as the SPIFFE project's Python library does.

spiffe_ids.py      of each line on standard input, an id in hex: `refused`, or its trust domain and path, in hex
"""

import sys

from spiffe.spiffe_id.spiffe_id import SpiffeId, SpiffeIdError


def read(text):
    try:
        found = SpiffeId(text)
    except SpiffeIdError:
        return "refused"
    return f"{found.trust_domain.name.encode().hex()} {found.path.encode().hex()}"


for line in sys.stdin:
    print(read(bytes.fromhex(line).decode()))
