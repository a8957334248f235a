"""The receiving half of the WebSocket protocol (RFC 6455): enough to hear what a ComfyUI server reports."""

import base64
import os
import socket
import struct
from dataclasses import dataclass

from .errors import HostError

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
CONTINUATION = 0x0


@dataclass(frozen=True)
class Message:
    """A whole message; `opcode` is TEXT or BINARY."""

    opcode: int
    payload: bytes


class WebSocket:
    """A connection to `ws://host:port/path`; reading is all it does."""

    def __init__(self, host: str, port: int, path: str) -> None:
        self._socket = socket.create_connection((host, port), timeout=30)
        self._received = bytearray()
        try:
            self._shake_hands(f"{host}:{port}", path)
        except (OSError, HostError):
            self._socket.close()
            raise

    def read(self, timeout: float) -> Message | None:
        """The next message, or None when none came within `timeout` seconds."""
        self._socket.settimeout(timeout)
        parts: list[bytes] = []
        opcode = TEXT
        while True:
            try:
                frame = self._read_frame()
            except TimeoutError:
                if parts:
                    continue  # the rest of a message that has begun
                return None
            if frame.opcode == CLOSE:
                raise HostError("the server closed the WebSocket connection")
            if frame.opcode == PING:
                self._send_pong(frame.payload)
            if frame.opcode not in (TEXT, BINARY, CONTINUATION):
                continue
            if frame.opcode != CONTINUATION:
                opcode = frame.opcode
            parts.append(frame.payload)
            if frame.is_last:
                return Message(opcode, b"".join(parts))

    def close(self) -> None:
        self._socket.close()

    def _shake_hands(self, host: str, path: str) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        request = (
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        self._socket.sendall(request.encode())
        while b"\r\n\r\n" not in self._received:
            self._fill()
        head, _, rest = bytes(self._received).partition(b"\r\n\r\n")
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise HostError(f"ws://{host}{path} refused the connection: {head[:200]!r}")
        self._received = bytearray(rest)

    def _read_frame(self) -> "_Frame":
        """Take one frame from the buffer; a timeout leaves the buffer as it was, so that reading can go on."""
        head_size = 2
        self._need(head_size)
        first, size = self._received[0], self._received[1] & 0x7F
        if size >= 126:
            width = 2 if size == 126 else 8
            self._need(head_size + width)
            (size,) = struct.unpack(">H" if width == 2 else ">Q", self._received[2 : 2 + width])
            head_size += width
        self._need(head_size + size)
        payload = bytes(self._received[head_size : head_size + size])
        del self._received[: head_size + size]
        return _Frame(first & 0x0F, payload, bool(first & 0x80))

    def _need(self, size: int) -> None:
        while len(self._received) < size:
            self._fill()

    def _fill(self) -> None:
        chunk = self._socket.recv(65536)
        if not chunk:
            raise HostError("the server ended the WebSocket connection; see its log")
        self._received += chunk

    def _send_pong(self, payload: bytes) -> None:
        mask = os.urandom(4)  # clients must mask what they send
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
        self._socket.sendall(bytes([0x80 | PONG, 0x80 | len(payload)]) + mask + masked)


@dataclass(frozen=True)
class _Frame:
    opcode: int
    payload: bytes
    is_last: bool
