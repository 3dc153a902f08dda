"""`hsdp-inspect verify` and `replay` in a process: `python -m tests.verify.run_cli ...`.

With `FAKE_WORKER=1` the ranks are those without torch.
"""

from __future__ import annotations

import os

from inspector.__main__ import main
from inspector.cli.group import cli
from inspector.cli.verify import commands
from inspector.verify.job.launcher import Job

for command in commands:
    cli.add_command(command)
if os.environ.get("FAKE_WORKER"):
    assert Job.__init__.__kwdefaults__ is not None
    Job.__init__.__kwdefaults__["worker"] = "tests.verify.fake_worker"
main()
