"""What a reader of the release finds, with nobody's help from this repository.

`read_back.py bill FILE`      holds a bill of materials against the schema of CycloneDX 1.6; says what is wrong, or nothing
`read_back.py program FILE`   prints the list of dependencies that the program carries, as JSON
"""

import json
import struct
import sys
import zlib
from pathlib import Path


def bill(text):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    return [] if error is None else [str(error).splitlines()[0]]


def program(data):
    """The section `.dep-v0` of an ELF file of 64 bits, unpacked."""
    if data[:5] != b"\x7fELF\x02":
        raise SystemExit("no program for 64 bits")
    table, = struct.unpack_from("<Q", data, 0x28)
    size, count, names = struct.unpack_from("<HHH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", data, table + size * number) for number in range(count)]
    start = sections[names][4]
    for name, _, _, _, offset, length in sections:
        if data[start + name:].split(b"\0", 1)[0] == b".dep-v0":
            return json.loads(zlib.decompress(data[offset:offset + length]))
    raise SystemExit("the program carries no list of its dependencies")


def main():
    what, file = sys.argv[1:]
    if what == "program":
        print(json.dumps(program(Path(file).read_bytes())))
        return 0
    faults = bill(Path(file).read_text())
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
