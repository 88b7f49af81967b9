"""Prints all documents of a file of YAML as one list in JSON. A key that is there twice is a mistake."""

import json
import sys

import yaml


class Strict(yaml.SafeLoader):
    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {str(key) for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.YAMLError(f"{node.start_mark}: twice: {', '.join(sorted(twice))}")
        return super().construct_mapping(node, deep)


with open(sys.argv[1]) as file:
    print(json.dumps([document for document in yaml.load_all(file, Strict) if document is not None]))
