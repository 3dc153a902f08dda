"""What torchrun runs where faults are planted: the worker, with the seams that a file describes.

`faults.json` lies beside the events folder of the job.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from inspector.verify.ranks.worker import main
from inspector.verify.spec import JobSpec
from tests.helpers.planted_faults import PlantedFaults

FILE = "faults.json"


def faults_of(spec: JobSpec, rank: int) -> PlantedFaults:
    """The faults of a job, as one rank sees them."""
    file = Path(spec.events_dir).resolve().parent / FILE
    return PlantedFaults(json.loads(file.read_text()) if file.exists() else {}, rank)


if __name__ == "__main__":
    main(faults_of(JobSpec.read(sys.argv[1]), int(os.environ["RANK"])))
