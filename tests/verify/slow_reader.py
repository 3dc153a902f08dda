"""What torchrun runs in the tests of lost ranks: a rank that reads, and waits after a portion.

`WAITING_RANK` says which, and `WAITING_HOW`: `asleep` (SIGTERM finds it as it is), `deaf` (SIGTERM
does nothing to it).
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from inspector.verify.shares import worker
from inspector.verify.shares.portion import PortionFile


class Waiting(PortionFile):
    """Waits once a portion is written."""

    def write(self, told: dict[str, Any]) -> None:
        super().write(told)
        if os.environ["RANK"] == os.environ.get("WAITING_RANK"):
            if os.environ.get("WAITING_HOW") == "deaf":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(900)


worker.PortionFile = Waiting  # type: ignore[misc]
if __name__ == "__main__":
    worker.main()
