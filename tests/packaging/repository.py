"""Where things are, and the few formats that are read: the Containerfile and compose's variables."""

import json
import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGING = ROOT / "packaging"
BINARIES = Path(os.environ["BINARIES"])


def skipped(what):
    """Says what was left out and why; `tests/run` says it again at the end."""
    # On a line of its own, also in the middle of unittest's dots.
    print(f"\nskipped: {what}", flush=True)


def containerfile():
    """Its instructions, (NAME, arguments), the lines of each joined."""
    text = (PACKAGING / "container/Containerfile").read_text()
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.M).replace("\\\n", " ")
    found = []
    for line in filter(str.strip, text.splitlines()):
        name, _, rest = line.partition(" ")
        found.append((name, " ".join(rest.split())))
    return found


def instruction(name):
    """The arguments of the last instruction of that name."""
    return [rest for found, rest in containerfile() if found == name][-1]


def image_environment():
    """What the image sets for every container."""
    pairs = [pair for name, rest in containerfile() if name == "ENV" for pair in rest.split()]
    return dict(pair.split("=", 1) for pair in pairs)


def image_command():
    """What a container runs that is not told otherwise."""
    return json.loads(instruction("CMD"))


def interpolated(text, variables):
    """`${NAME:-default}` and `${NAME:?why}`, as compose reads them."""

    def value(match):
        name, kind, rest = match.groups()
        if variables.get(name):
            return variables[name]
        if kind == ":-":
            return rest
        raise KeyError(f"{name}: {rest}")

    return re.sub(r"\$\{(\w+)(:-|:\?)([^}]*)\}", value, text)
