"""Where the nodes of a printed job meet, and by which of its addresses this node goes there.

Names mislead: a host's own name often means 127.0.1.1 in its /etc/hosts, and gloo listens where
the name leads. So it is asked which address is really here (one can be bound to), which interface
leads to the head, and whether the port is free; and torch is told.
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import os
import re
import socket
import struct
from dataclasses import dataclass

from inspector.checkpoint.text import printable
from inspector.errors import InspectError

__all__ = ["NetworkError", "Place", "hosts_of", "place"]

_SIOCGIFADDR = 0x8915
#: No packet is sent there: it asks which interface leads out (addresses kept for documentation).
_OUTSIDE = ("192.0.2.1", "2001:db8::1")


class NetworkError(InspectError):
    """The nodes cannot meet as this one sees it."""


@dataclass(frozen=True, slots=True)
class Place:
    """How this node meets the others.

    Attributes:
        endpoint: HOST:PORT of the head, for torchrun.
        is_head: Whether that is this node.
        address: This node's own, by which others reach it.
        interface: The interface that has it; empty if none is found.
        notes: What the user should know, in sentences.
    """

    endpoint: str
    is_head: bool
    address: str
    interface: str
    notes: tuple[str, ...] = ()


def place(host: str, port: int, node_rank: int | None = None) -> Place:
    """How this node meets the others at `host`:`port`.

    Args:
        host: Name or address of the head.
        port: Where its store listens.
        node_rank: This node's number, 0 for the head; None to see whether the address is here.

    Raises:
        NetworkError: The name means nothing here, or this machine; the port is taken.
    """
    shown = printable(host, 100)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NetworkError(f"the head's name, {shown}, does not resolve: {error}") from error
    addresses = list(dict.fromkeys(str(item[4][0]) for item in found))
    local = [address for address in addresses if _is_here(address)]
    is_head = bool(local) if node_rank is None else node_rank == 0
    notes = []
    if is_head:
        if why := _taken(port):
            raise NetworkError(f"port {port} of {shown} {why}: take another (--port)")
        real = [address for address in local if not _is_loopback(address)]
        address = real[0] if real else _outward()
    else:
        if all(map(_is_loopback, addresses)):
            raise NetworkError(
                f"the head's name, {shown}, means {addresses[0]} here, which is this machine: give "
                "its address (HEAD_NODE=10.0.0.1)"
            )
        address = _route(next(a for a in addresses if not _is_loopback(a))) or _outward()
    interface = _interface(address)
    own = socket.gethostname()
    if (told := _loopback_name(own)) and interface:
        notes.append(
            f"{printable(own, 100)} means {told} here, where other nodes cannot reach it: gloo "
            f"goes by {address} (GLOO_SOCKET_IFNAME={interface})"
        )
    name = f"[{host}]" if ":" in host else host
    return Place(f"{name}:{port}", is_head, address, interface, tuple(notes))


def hosts_of(nodelist: str) -> list[str]:
    """The hosts of Slurm's compact list: `a[1-3,7],b`."""
    hosts: list[str] = []
    for head, ranges, tail in re.findall(r"([^,\[\]]+)(?:\[([^\]]*)\])?([^,\[\]]*)", nodelist):
        if not ranges:
            hosts.append(head + tail)
            continue
        for part in ranges.split(","):
            first, _, last = part.partition("-")
            if first.isdigit() and (not last or last.isdigit()):
                numbers = range(int(first), min(int(last or first), int(first) + 65_536) + 1)
                hosts += [f"{head}{number:0{len(first)}}{tail}" for number in numbers]
    return hosts


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _is_here(address: str) -> bool:
    """Whether an address is one of this machine's: then it can be bound to."""
    try:
        with socket.socket(_family(address), socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _taken(port: int) -> str:
    """Why nobody can listen on a port, on all addresses as torch's store does; else nothing."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))
            # Bound to is not yet listened on: with SO_REUSEADDR the one does not show the other.
            probe.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return "is in use"
        return f"cannot be listened on ({os.strerror(error.errno or 0).lower()})"
    return ""


def _route(address: str) -> str:
    """The address of this machine from which it reaches another."""
    try:
        with socket.socket(_family(address), socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def _outward() -> str:
    """An address of this machine that others may reach it by; 127.0.0.1 if it has none."""
    for outside in _OUTSIDE:
        address = _route(outside)
        if address and not _is_loopback(address):
            return address
    for name in _interfaces():
        address = _address_of(name)
        if address and not _is_loopback(address):
            return address
    return "127.0.0.1"


def _interfaces() -> list[str]:
    try:
        return [name for _, name in socket.if_nameindex()]
    except OSError:
        return []


def _address_of(interface: str) -> str:
    """The IPv4 address of an interface; empty if it has none."""
    request = struct.pack("256s", os.fsencode(interface)[:15])
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            return socket.inet_ntoa(fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)[20:24])
    except OSError:
        return ""


def _interface(address: str) -> str:
    """The interface that has an address; empty if none is found."""
    if ":" not in address:
        return next((n for n in _interfaces() if _address_of(n) == address), "")
    wanted = ipaddress.ip_address(address.partition("%")[0])
    try:
        with open("/proc/net/if_inet6", encoding="ascii") as file:
            rows = [line.split() for line in file]
    except OSError:
        return ""
    return next((r[5] for r in rows if ipaddress.ip_address(bytes.fromhex(r[0])) == wanted), "")


def _loopback_name(host: str) -> str:
    """What this machine's own name means, if that is itself alone; else nothing."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ""
    addresses = [str(item[4][0]) for item in found]
    return addresses[0] if addresses and all(map(_is_loopback, addresses)) else ""
