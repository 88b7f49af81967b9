"""Holds objects, a list in JSON on standard input, against the schemas of Kubernetes' own interfaces. Prints what is wrong with each.

Strict: a field that the interface does not have is a mistake, as a misspelt one would otherwise do nothing.
"""

import json
import sys

import kubernetes_validate

faults = 0
for one in json.load(sys.stdin):
    name = f"{one.get('kind')} {one.get('metadata', {}).get('name')}"
    try:
        kubernetes_validate.validate(one, "1.37", strict=True)
    except kubernetes_validate.ValidationError as error:
        faults += 1
        print(f"{name}: {'.'.join(str(part) for part in error.path)}: {error.message}")
    except kubernetes_validate.SchemaNotFoundError:
        faults += 1
        print(f"{name}: {one.get('apiVersion')} has no such kind")
sys.exit(1 if faults else 0)
