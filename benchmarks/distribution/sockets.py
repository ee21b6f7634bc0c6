"""Counts the bytes that this process has sent over TCP, from the kernel's own counters."""

from __future__ import annotations

import contextlib
import os
import socket
import struct

# In struct tcp_info of Linux 4.1 and later: bytes that the other side has acknowledged.
_ACKNOWLEDGED, _SIZE = 120, 232


def bytes_sent() -> int:
    """Returns the bytes that the other sides of this process's open connections have received.

    Raises:
      OSError: If the system does not count them.
    """
    total = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            total += _acknowledged(int(name))
    return total


def _acknowledged(descriptor: int) -> int:
    """Returns the bytes of one connection; 0 for a socket that is none."""
    with socket.socket(fileno=os.dup(descriptor)) as one:
        if one.family not in (socket.AF_INET, socket.AF_INET6) or one.type != socket.SOCK_STREAM:
            return 0
        information = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE)
    if len(information) < _ACKNOWLEDGED + 8:
        raise OSError("Expected a kernel that counts a connection's bytes (Linux 4.1).")
    return int(struct.unpack_from("<Q", information, _ACKNOWLEDGED)[0])
