"""Labelled answers of a specialist's twins, for its curve: two adapters, each trained on one half and asked the other.

    python benchmarks/keep_out.py --data DATA --out OUT
    python benchmarks/twins.py --data OUT/train --name sql --out OUT/twins     # a quarter of an hour for 800 rows

Runs `pointsman train` and `pointsman cascade collect` as docs/cascade.md says; OUT/twins/NAME.jsonl gets the answers.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

JUDGING = 12
"""Rows of the other half that `train` judges a twin by; how good it is does not matter here."""


def pointsman(*arguments: str, **environment: str) -> None:
    subprocess.run([sys.executable, "-m", "pointsman", *arguments], check=True, env=os.environ | environment)


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of NAME_train.jsonl")
    parser.add_argument("--name", required=True, help="the specialist")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    out, name = arguments.out, arguments.name
    out.mkdir(parents=True, exist_ok=True)
    lines = (arguments.data / f"{name}_train.jsonl").read_text().splitlines()
    middle = len(lines) // 2
    first = write(out / f"{name}_first.jsonl", lines[:middle])
    second = write(out / f"{name}_second.jsonl", lines[middle:])
    for number, (learnt, asked) in enumerate(((first, second), (second, first)), 1):
        twin = f"{name}_{number}"
        judging = write(out / f"{twin}_is_judged_by.jsonl", asked.read_text().splitlines()[-JUDGING:])
        # A folder of their own: nobody is to be served by twins.
        pointsman(
            *("train", twin, "--data", str(learnt), "--eval", str(judging), "--overwrite"),
            POINTSMAN_PATHS__SPECIALISTS=str(out),
        )
        adapter = out / "adapters" / f"{twin}.gguf"
        pointsman(
            *("cascade", "collect", "--specialist", name, "--adapter", str(adapter), "--data", str(asked)),
            *("--out", str(out / f"{name}.jsonl"), *(["--add"] if number > 1 else [])),
        )


if __name__ == "__main__":
    main()
