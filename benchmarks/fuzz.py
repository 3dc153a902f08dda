"""Thousands of damaged checkpoints: each must end in a verdict, in time, without a traceback.

    python benchmarks/fuzz.py [--count 3000] [--seed 1] [--budget-s S] [--log FILE] [--out FILE]

`tests/helpers/fuzz` makes and judges them, and asks torch about those that exit 0. The same seed
gives the same mutations. With --log, a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

from measuring import RESULTS, machine, write

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.helpers.fuzz.judging import LIMIT_S
from tests.helpers.fuzz.runs import Summary, results


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--budget-s", type=float, default=float("inf"))
    parser.add_argument("--log", type=Path, help="a line for each mutation; read first if there")
    parser.add_argument("--out", type=Path, default=RESULTS / "fuzz.json")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    begin, before_s = time.monotonic(), 0.0
    summary = Summary()
    if options.log is not None and options.log.exists():
        for line in options.log.read_text().splitlines():
            item = json.loads(line)
            summary.add(item)
            before_s = item["elapsed_s"]
    numbers = range(summary.count, options.count)
    log = options.log.open("a") if options.log is not None else None
    for item in results(numbers, options.seed, budget_s=options.budget_s):
        item["elapsed_s"] = round(before_s + time.monotonic() - begin, 1)
        summary.add(item)
        if item["problem"]:
            sys.stderr.write(f"{item}\n")
        if log is not None:
            log.write(json.dumps(item) + "\n")
            log.flush()
    document = {
        "what": "damaged checkpoints, seals and recordings, judged by the commands; torch beside",
        "seed": options.seed,
        "elapsed_s": round(before_s + time.monotonic() - begin, 1),
        "limit_s": LIMIT_S,
        **summary.figures(),
        "machine": machine(),
    }
    write(options.out, document)
    print(json.dumps({k: v for k, v in document.items() if k != "failures"}, indent=1))
    return 1 if summary.failures else 0


if __name__ == "__main__":
    sys.exit(main())
