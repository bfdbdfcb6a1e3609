"""Keep a part of training data out, for the cascade: what an adapter has seen says nothing of how often it errs.

    python benchmarks/keep_out.py --data DATA --out OUT

DATA holds {support,slots,sql}_train.jsonl. OUT gets train/NAME_train.jsonl, which the shipped adapters were
trained on, and validation/NAME.jsonl, which benchmarks/cascade.py fits on. Prompts that differ in case and spaces
only are kept once; the rest is drawn with seed 0.
"""

import argparse
import json
import random
from pathlib import Path

KEPT_OUT = {"support": 300, "slots": 500, "sql": 100}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of NAME_train.jsonl")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    for name, count in KEPT_OUT.items():
        lines = (arguments.data / f"{name}_train.jsonl").read_text().splitlines()
        rows = {}
        for line in lines:
            rows.setdefault(" ".join(json.loads(line)["user"].casefold().split()), line)
        drawn = list(rows.values())
        random.Random(0).shuffle(drawn)
        for path, part in (("train", drawn[count:]), ("validation", drawn[:count])):
            file = arguments.out / path / (f"{name}_train.jsonl" if path == "train" else f"{name}.jsonl")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(part) + "\n")
            print(f"{file}: {len(part)} rows")


if __name__ == "__main__":
    main()
