"""Writes AWS Batch's RegisterJobDefinition as a JSON schema, from botocore's model of the API.

    python docs/freeze_batch.py 1.44.8 SITE_PACKAGES > src/weftline/launch/data/aws_batch_job.json

SITE_PACKAGES holds botocore; its model is JSON (Apache-2.0), and nothing of it is imported. Shapes
become strict objects, so that a misspelt member does not pass; descriptions are left out.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

KINDS = {"string": "string", "integer": "integer", "long": "integer", "boolean": "boolean",
         "float": "number", "double": "number", "timestamp": "number"}  # fmt: skip


def schema_of(shapes: dict[str, Any], name: str) -> dict[str, Any]:
    """The schema of one shape, those inside it written out (they are a tree)."""
    shape = shapes[name]
    kind = shape["type"]
    if kind == "structure":
        return {
            "type": "object", "additionalProperties": False, "required": shape.get("required", []),
            "properties": {member: schema_of(shapes, held["shape"])
                           for member, held in shape["members"].items()},
        }  # fmt: skip
    if kind == "list":
        return {"type": "array", "items": schema_of(shapes, shape["member"]["shape"])}
    if kind == "map":
        return {"type": "object",
                "additionalProperties": schema_of(shapes, shape["value"]["shape"])}  # fmt: skip
    found: dict[str, Any] = {"type": KINDS[kind]}
    if "enum" in shape:
        found["enum"] = shape["enum"]
    return found


def main() -> None:
    """Print the schema."""
    version, folder = sys.argv[1:3]
    path = next(Path(folder).glob("botocore/data/batch/*/service-2.json.gz"))
    model = json.loads(gzip.decompress(path.read_bytes()))
    found = schema_of(
        model["shapes"], model["operations"]["RegisterJobDefinition"]["input"]["shape"]
    )
    found["$comment"] = (f"AWS Batch {model['metadata']['apiVersion']} as in botocore {version} "
                         "(Apache-2.0), by docs/freeze_batch.py")  # fmt: skip
    sys.stdout.write(json.dumps(found, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
