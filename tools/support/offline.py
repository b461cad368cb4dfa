"""Cut the network off for a command, and count what tried to use it. Standard library only.

Two layers. Where the system allows it, the command runs in a network namespace of its own, in
which nothing but the loopback device exists. And always, every Python process of the command loads
an audit hook that refuses connections and look-ups beyond this machine and records each in a log.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

LOG_VARIABLE = "HRM_OFFLINE_NETWORK_LOG"

# Loaded by every Python process whose PYTHONPATH leads here.
_GUARD = """\
import os, sys

_LOCAL = {"localhost", "127.0.0.1", "::1", "0.0.0.0", "::", ""}

def _guard(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        if not isinstance(address, tuple):  # unix and netlink sockets stay on the machine
            return
        host = str(address[0])
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = arguments[0].decode() if isinstance(arguments[0], bytes) else str(arguments[0] or "")
    else:
        return
    if host in _LOCAL or host.startswith("127."):
        return
    with open(os.environ["HRM_OFFLINE_NETWORK_LOG"], "a") as log:
        log.write(f"{os.getpid()} {event} {host}\\n")
    raise PermissionError(f"offline rehearsal: {event} to {host} refused")

if "HRM_OFFLINE_NETWORK_LOG" in os.environ:
    sys.addaudithook(_guard)
"""

# A fresh namespace has its loopback device down, and Jupyter talks to its kernel through it.
_LOOPBACK_UP = """\
import fcntl, os, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    SIOCSIFFLAGS, IFF_UP_RUNNING = 0x8914, 0x41
    fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sH14s", b"lo", IFF_UP_RUNNING, b""))
os.execvp(sys.argv[1], sys.argv[1:])
"""


class OfflineRunner:
    """Runs commands offline; `folder` holds the guard and the log."""

    def __init__(self, folder: Path, python: str):
        self.python = python
        self.guard = folder / "guard"
        self.guard.mkdir(parents=True, exist_ok=True)
        (self.guard / "sitecustomize.py").write_text(_GUARD)
        self.log = folder / "network.log"
        self.log.write_text("")
        self.namespace = self._find_namespace()

    @property
    def means(self) -> str:
        """How the network is cut off, in words."""
        if self.namespace:
            return "network namespace without interfaces, and sockets watched in every Python process"
        return "sockets refused inside every Python process (this system allows no network namespace)"

    def run(self, command: list[str], environment: dict[str, str], timeout: float) -> int:
        """Run to the end; returns the exit code. Raises `subprocess.TimeoutExpired`."""
        path = os.pathsep.join(filter(None, [str(self.guard), environment.get("PYTHONPATH")]))
        environment = environment | {"PYTHONPATH": path, LOG_VARIABLE: str(self.log)}
        return subprocess.run([*self._prefix(self.namespace), *command], env=environment, timeout=timeout).returncode

    def attempts(self) -> list[str]:
        """One line for each connection or look-up beyond this machine that was tried."""
        return self.log.read_text().splitlines()

    def _prefix(self, namespace: list[str]) -> list[str]:
        return [*namespace, self.python, "-c", _LOOPBACK_UP] if namespace else []

    def _find_namespace(self) -> list[str]:
        if shutil.which("unshare"):
            for flags in ("-rn", "-n"):
                probe = [*self._prefix(["unshare", flags]), "true"]
                if subprocess.run(probe, capture_output=True).returncode == 0:
                    return ["unshare", flags]
        return []
