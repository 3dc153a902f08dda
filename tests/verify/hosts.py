"""Two hosts on one machine: namespaces of network, names, mounts and processes, and a cable."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_TOOLS = ("ip", "unshare", "mount", "hostname")
_TRY_S = 120.0


def why_not() -> str:
    """Why no such hosts can be made here; empty if they can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "namespaces take root on Linux"
    if missing := [name for name in _TOOLS if shutil.which(name) is None]:
        return f"{' and '.join(missing)} not installed"
    tried = _run("unshare", "-mnupf", "--mount-proc", "ip", "link", "set", "lo", "up", check=False)
    if tried.returncode:
        return f"no namespaces: {tried.stderr.strip()[:200]}"
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            two_hosts(Path(folder)) as hosts,
        ):
            for host in hosts:
                said, _ = host.start("hostname && cat /etc/hosts").communicate(timeout=_TRY_S)
                if said.split() != [host.name, *host.hosts.read_text().split()]:
                    return f"no namespace with a name of its own: {said.strip()[:200]}"
            return ""
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        return f"no two namespaces with a cable: {str(error.stderr).strip()[:200]}"


def _run(*argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, check=check)


@dataclass
class Host:
    """One of them.

    Attributes:
        name: Its own name, which its /etc/hosts takes for 127.0.1.1, as Debian's does.
        address: Where the other reaches it.
    """

    name: str
    address: str
    namespace: str
    hosts: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, line: str, **env: str) -> subprocess.Popen[str]:
        """Run a shell's line there; stdout and stderr are one."""
        if not self.hosts.exists():
            self.hosts.write_text(f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n")
        script = (
            f"hostname {self.name}; mount --bind {self.hosts} /etc/hosts; "
            f"export HOSTNAME={self.name}; {line}"
        )
        process = subprocess.Popen(
            [
                *("ip", "netns", "exec", self.namespace),
                *("unshare", "-mupf", "--mount-proc", "--kill-child", "sh", "-c", script),
            ],
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def unplug(self) -> None:
        """Cut the cable: what its processes say from then on, their end too, reaches nobody."""
        _run("ip", "-n", self.namespace, "link", "set", "eth0", "down")

    def kill(self) -> None:
        """End every process of it at once."""
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def two_hosts(folder: Path) -> Iterator[tuple[Host, Host]]:
    """`alpha` at 10.99.0.1 and `beta` at 10.99.0.2, each without a way to anywhere else.

    Raises:
        subprocess.CalledProcessError: They cannot be made.
    """
    tag = uuid.uuid4().hex[:6]
    hosts = tuple(
        Host(name, f"10.99.0.{i}", f"hi-{tag}-{i}", folder / f"{name}.hosts")
        for i, name in enumerate(("alpha", "beta"), 1)
    )
    try:
        for host in hosts:
            _run("ip", "netns", "add", host.namespace)
            _run("ip", "-n", host.namespace, "link", "set", "lo", "up")
        a, b = hosts
        _run(
            *("ip", "-n", a.namespace, "link", "add", "eth0", "type", "veth"),
            *("peer", "name", "eth0", "netns", b.namespace),
        )
        for host in hosts:
            _run("ip", "-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
            _run("ip", "-n", host.namespace, "link", "set", "eth0", "up")
        yield a, b
    finally:
        for host in hosts:
            host.kill()
            _run("ip", "netns", "del", host.namespace, check=False)
