"""Messages of every size and in every slicing; the other side is a socket in this process."""

import contextlib
import socket
import struct
import threading
import time

import pytest

from host.errors import HostError
from host.websocket import BINARY, TEXT, Message, WebSocket


def frame(opcode, payload, *, is_last=True):
    """A frame as a server sends it: without a mask."""
    size = len(payload)
    if size < 126:
        head = bytes([size])
    else:
        head = bytes([126]) + struct.pack(">H", size) if size < 65536 else bytes([127]) + struct.pack(">Q", size)
    return bytes([opcode | (0x80 if is_last else 0)]) + head + payload


@contextlib.contextmanager
def connection(*chunks, answer=b"HTTP/1.1 101 Switching Protocols\r\n\r\n"):
    """A WebSocket to a server that sends `chunks` one by one, and waits where one is a number of seconds.

    Yields the WebSocket and the bytes the server received.
    """
    received = bytearray()

    def serve():
        with listener.accept()[0] as peer:
            while b"\r\n\r\n" not in received:
                received.extend(peer.recv(4096))
            for chunk in (answer, *chunks):
                if isinstance(chunk, float):
                    time.sleep(chunk)
                else:
                    peer.sendall(chunk)
            peer.settimeout(5)
            while more := peer.recv(4096):
                received.extend(more)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        websocket = None
        try:
            websocket = WebSocket("127.0.0.1", listener.getsockname()[1], "/ws")
            yield websocket, received
        finally:
            if websocket:
                websocket.close()
            thread.join(10)


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_message_of_any_size_arrives_whole(size):
    payload = bytes(i % 251 for i in range(size))

    with connection(frame(BINARY, payload)) as (websocket, _):
        assert websocket.read(timeout=5) == Message(BINARY, payload)


def test_message_in_several_frames_is_joined_around_a_ping():
    chunks = (frame(TEXT, b"one ", is_last=False), frame(0x9, b"ping"), frame(0x0, b"two"))

    with connection(*chunks) as (websocket, received):
        assert websocket.read(timeout=5) == Message(TEXT, b"one two")
    pong = bytes(received).partition(b"\r\n\r\n")[2]
    assert pong[:2] == bytes([0x80 | 0xA, 0x80 | 4])
    assert bytes(byte ^ pong[2 + i % 4] for i, byte in enumerate(pong[6:])) == b"ping"


def test_silence_is_not_an_error_and_loses_nothing():
    whole = frame(TEXT, b"late")

    with connection(whole[:3], 0.5, whole[3:]) as (websocket, _):
        assert websocket.read(timeout=0.05) is None
        assert websocket.read(timeout=0.05) is None
        assert websocket.read(timeout=5) == Message(TEXT, b"late")


def test_close_is_reported():
    with connection(frame(0x8, b"")) as (websocket, _), pytest.raises(HostError, match="closed"):
        websocket.read(timeout=5)


def test_refused_connection_is_reported():
    with (
        pytest.raises(HostError, match="403"),
        connection(answer=b"HTTP/1.1 403 Forbidden\r\n\r\n"),
    ):
        pass
