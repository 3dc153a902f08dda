"""Thousands of damaged checkpoints: each must end in a verdict, in time, without a traceback.

    python benchmarks/fuzz.py [--count 3000] [--seed 1] [--workers 2] [--out FILE]

`tests/helpers/fuzz.py` makes and judges them. The same seed gives the same mutations.
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

from tests.helpers.fuzz import LIMIT_S, run


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "fuzz.json")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    begin = time.monotonic()
    figures = run(options.count, options.seed, options.workers)
    document = {
        "what": "damaged checkpoints, each judged as check --deep --values and show do",
        "seed": options.seed,
        "elapsed_s": round(time.monotonic() - begin, 1),
        "limit_s": LIMIT_S,
        **figures,
        "machine": machine(),
    }
    if figures["mutations"] != options.count:
        raise SystemExit(f"only {figures['mutations']} of {options.count} were judged")
    write(options.out, document)
    print(json.dumps({k: v for k, v in document.items() if k != "failures"}, indent=1))
    return 1 if figures["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
