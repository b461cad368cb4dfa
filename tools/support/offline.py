"""Cut the network off for a command, and record every attempt to use it. Imports the standard library only.

There are two layers. If the system allows it, the command runs in a network namespace of its own, which has no device
but the loopback. In any case, every Python process of the command loads an audit hook. The hook refuses connections
and look-ups beyond this machine, and writes each of them to a log.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

LOG_VARIABLE = "HRM_OFFLINE_NETWORK_LOG"

# The module sitecustomize, which every Python process loads that finds it on its PYTHONPATH.
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

# Turns the loopback device on, which is off in a new namespace: Jupyter talks to its kernel through that device.
_LOOPBACK_UP = """\
import fcntl, os, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    SIOCSIFFLAGS, IFF_UP_RUNNING = 0x8914, 0x41
    fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sH14s", b"lo", IFF_UP_RUNNING, b""))
os.execvp(sys.argv[1], sys.argv[1:])
"""


class OfflineRunner:
    """Runs commands offline. `folder` holds the audit hook and the log; `python` is the interpreter of the commands."""

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
            return "a network namespace without devices, and a guard in every Python process"
        return "a guard in every Python process (this system allows no network namespace)"

    def run(self, command: list[str], environment: dict[str, str], timeout: float) -> int:
        """Run a command to its end and return its exit code. Raises `subprocess.TimeoutExpired` after `timeout` s."""
        path = os.pathsep.join(filter(None, [str(self.guard), environment.get("PYTHONPATH")]))
        environment = environment | {"PYTHONPATH": path, LOG_VARIABLE: str(self.log)}
        return subprocess.run([*self._prefix(self.namespace), *command], env=environment, timeout=timeout).returncode

    def attempts(self) -> list[str]:
        """Return a line for each connection or look-up beyond this machine that was tried."""
        return self.log.read_text().splitlines()

    def _prefix(self, namespace: list[str]) -> list[str]:
        """Return the words that go before a command, so that it runs in a namespace with a loopback device."""
        return [*namespace, self.python, "-c", _LOOPBACK_UP] if namespace else []

    def _find_namespace(self) -> list[str]:
        """Return the command that makes a namespace, with a user namespace if need be; empty if none can be made."""
        if shutil.which("unshare"):
            for flags in ("-rn", "-n"):
                probe = [*self._prefix(["unshare", flags]), "true"]
                if subprocess.run(probe, capture_output=True).returncode == 0:
                    return ["unshare", flags]
        return []
