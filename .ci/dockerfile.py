"""Print what the Dockerfile's last stage sets, for a shell to take up: its ENV, and `command` from ENTRYPOINT and CMD.

Arguments `OLD=NEW` say where a path of the image stands outside it; `port=N` listens on another port.
"""

import json
import re
import shlex
import sys
from pathlib import Path

DOCKERFILE = Path(__file__).parent.parent / "Dockerfile"


def read(dockerfile: str) -> tuple[dict[str, str], list[str]]:
    """Return the last stage's environment and the command that a container runs by default."""
    instructions = re.sub(r"^\s*#.*\n", "", dockerfile, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    environment: dict[str, str] = {}
    ran: dict[str, list[str]] = {}
    for line in instructions:
        name, _, rest = line.partition(" ")
        if name == "FROM":
            environment.clear()
            ran.clear()
        elif name == "ENV":
            environment |= dict(pair.split("=", 1) for pair in shlex.split(rest))
        elif name in {"ENTRYPOINT", "CMD"}:
            ran[name] = json.loads(rest)
    return environment, ran["ENTRYPOINT"] + ran["CMD"]


def main() -> None:
    """Print shell assignments."""
    environment, command = read(DOCKERFILE.read_text())
    moved = dict(argument.split("=", 1) for argument in sys.argv[1:])
    port = moved.pop("port", "")
    for name, given in environment.items():
        value = given
        for old, new in moved.items():
            value = re.sub(rf"(^|(?<=sqlite:///)){re.escape(old)}(?=/|:|$)", new, value)
        if port and name.endswith("ADDRESS"):
            value = re.sub(r"\d+$", port, value)
        quoted = re.sub(r'(["\\`])', r"\\\1", value)  # double quotes: both expand the $PATH that is in PATH
        print(f'export {name}="{quoted}"')
    print(f"command=({shlex.join(command)})")


if __name__ == "__main__":
    main()
