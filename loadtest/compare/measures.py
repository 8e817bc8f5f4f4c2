"""What a way costs: bytes that its stores received, processor time, memory. Looked up in the kernel, from outside."""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection

import psutil  # type: ignore[import-untyped]

SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
ASK_FOR_ALL = 0x301
DONE, ERROR = 3, 2
INET_DIAG_INFO = 2
ESTABLISHED = 1 << 1
BYTES_RECEIVED_AT = 128
"""Of ``tcpi_bytes_received`` in the kernel's ``struct tcp_info``."""
HEAD_BYTES, MESSAGE_BYTES = 16, 72
"""Of netlink's header, and of ``struct inet_diag_msg`` before its attributes."""


def bytes_received(ports: Collection[int]) -> int:
    """By whoever listens at these ports, over all connections that are open now. OSError if the kernel doesn't tell."""
    return sum(_received(port) for port in ports)


def _received(port: int) -> int:
    ask = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 1 << (INET_DIAG_INFO - 1), 0, ESTABLISHED)
    ask += struct.pack("!HH", port, 0) + bytes(32) + struct.pack("=I", 0) + b"\xff" * 8
    total = 0
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, SOCK_DIAG) as kernel:
        kernel.send(struct.pack("=IHHII", HEAD_BYTES + len(ask), SOCK_DIAG_BY_FAMILY, ASK_FOR_ALL, 1, 0) + ask)
        while True:
            rest = kernel.recv(1 << 18)
            while rest:
                length, kind = struct.unpack_from("=IH", rest)
                if kind == DONE:
                    return total
                if kind == ERROR:
                    raise OSError("the kernel doesn't tell what its connections received (inet_diag)")
                total += _of_connection(rest[HEAD_BYTES:length], port)
                rest = rest[(length + 3) & ~3 :]


def _of_connection(message: bytes, port: int) -> int:
    """Zero for the other ends of the connections: their remote port is that one."""
    if struct.unpack_from("!H", message, 4)[0] != port:
        return 0
    attributes = message[MESSAGE_BYTES:]
    while len(attributes) >= 4:
        length, kind = struct.unpack_from("=HH", attributes)
        if kind == INET_DIAG_INFO:
            return int(struct.unpack_from("=Q", attributes, 4 + BYTES_RECEIVED_AT)[0])
        attributes = attributes[(length + 3) & ~3 :]
    return 0


def memory_bytes(processes: Collection[psutil.Process]) -> int:
    """Proportional set size: what is shared counts once, whoever shares it."""
    return sum(_memory(process) for process in processes)


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0
