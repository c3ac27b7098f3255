"""Checks that every request which Baal made to Telegram is one that aiogram could have made: the method exists, aiogram's type
of it accepts the parameters strictly, none is unknown at any depth, and what aiogram would send is what was sent.

    requests.py FILE-OR-DIRECTORY...

Reads lines of JSON, as the simulator writes them with --telegram-requests. Prints how many requests of each method there were;
says on standard error what is wrong and exits with 1.
"""

import collections
import json
import pathlib
import sys

import aiogram.methods
from aiogram.methods import TelegramMethod
from aiogram.types import BufferedInputFile
from fields import unknown_fields
from pydantic import BaseModel

METHODS = {
    kind.__api_method__: kind
    for kind in vars(aiogram.methods).values()
    if isinstance(kind, type) and issubclass(kind, TelegramMethod) and kind is not TelegramMethod
}
# Every kind of complaint is shown so many times.
SHOWN = 5


def said(value):
    """What aiogram would send: what was set, and nothing else."""
    if isinstance(value, BaseModel):
        return {name: said(getattr(value, name)) for name in value.model_fields_set}
    if isinstance(value, list):
        return [said(item) for item in value]
    return value


def decoded(kind, params):
    """Parameters of a form are strings; aiogram writes into forms the JSON of whatever is no string."""
    read = {}
    for name, text in params.items():
        read[name] = text
        if isinstance(text, str) and name in kind.model_fields and kind.model_fields[name].annotation not in (str, str | None):
            try:
                read[name] = json.loads(text)
            except ValueError:
                pass
    return read


def complaint(request):
    """What is wrong with a request; nothing if it is fine."""
    kind = METHODS.get(request["method"])
    if kind is None:
        return f"aiogram knows no method {request['method']}"
    params = {name: value for name, value in request["params"].items() if value is not None}
    files = request.get("files") or {}
    if files:
        params = decoded(kind, params)
        for field, file in files.items():
            # Referred to from elsewhere in the request, or the field itself.
            if field in kind.model_fields:
                params[field] = BufferedInputFile(b"-", filename=file["name"])
            elif f"attach://{field}" not in json.dumps(params, default=str):
                return f"the file {field!r} belongs to no parameter"
    try:
        method = kind.model_validate(params)
    except ValueError as error:
        return str(error)
    if unknown := sorted(unknown_fields(method)):
        return f"unknown: {', '.join(unknown)}"
    if (would_say := said(method)) != params:
        changed = {name for name in would_say.keys() | params.keys() if would_say.get(name) != params.get(name)}
        return f"aiogram says it otherwise: {[(name, params.get(name), would_say.get(name)) for name in sorted(changed)]}"
    return None


def main():
    paths = [pathlib.Path(argument) for argument in sys.argv[1:]]
    files = [file for path in paths for file in (sorted(path.glob("*.jsonl")) if path.is_dir() else [path])]
    counts, complaints = collections.Counter(), collections.defaultdict(list)
    for file in files:
        with file.open("rb") as lines:
            for line in lines:
                try:
                    request = json.loads(line)
                except ValueError:
                    # A simulator that was killed while it wrote leaves half a line at the end.
                    continue
                counts[request["method"]] += 1
                if what := complaint(request):
                    complaints[f"{request['method']}: {what}"].append(f"{file.name}: {line.decode()[:500]}")
    print(json.dumps({"files": len(files), "requests": counts.total(), "methods": dict(counts.most_common())}))
    if not counts:
        sys.exit("refused: there are no requests to judge")
    if complaints:
        kinds = "\n".join(
            f"{what} ({len(where)} times)\n  " + "\n  ".join(where[:SHOWN]) for what, where in complaints.items()
        )
        sys.exit(f"refused: {kinds}")


if __name__ == "__main__":
    main()
