"""Reads manifests (YAML documents) from standard input, holds each against Kubernetes' schemas, where no unknown field is
allowed, and prints them as a list in JSON. Arguments: versions of Kubernetes. Exits with 1 and says what is wrong, if anything."""

import json
import sys

import kubernetes_validate
import yaml

resources = [resource for resource in yaml.safe_load_all(sys.stdin) if resource]
wrong = []
for resource in resources:
    for version in sys.argv[1:]:
        try:
            kubernetes_validate.validate(resource, version, strict=True)
        except Exception as error:
            where = ".".join(map(str, getattr(error, "path", [])))
            said = getattr(error, "message", error)
            wrong.append(f"{resource['kind']} {resource['metadata']['name']}, Kubernetes {version}: {where}: {said}")
if wrong:
    sys.exit("\n".join(wrong))
json.dump(resources, sys.stdout)
