"""What torchrun runs where the ranks' own code is changed: `MUTANT` names the change (or none)."""

from __future__ import annotations

import os
import sys

from inspector.verify.ranks.worker import main
from inspector.verify.spec import JobSpec
from tests.helpers.mutants import MUTANTS

if __name__ == "__main__":
    spec = JobSpec.read(sys.argv[1])
    if os.environ.get("MUTANT"):
        MUTANTS[os.environ["MUTANT"]](spec)
    main()
