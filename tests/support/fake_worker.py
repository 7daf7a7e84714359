"""Something that listens where a worker should, and answers as a test wants it to."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

GREETING = struct.pack("<Q", 28)  # the length of what a worker of the pinned version answers


@contextlib.contextmanager
def listening(answer: bytes | None) -> Iterator[str]:
    """Yield `host:port` of a listener that sends `answer` to whoever connects and hangs up; None: never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = threading.Event()

        def serve() -> None:
            while not done.is_set():
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    if answer is None:
                        done.wait(60)
                    else:
                        connection.recv(64)
                        connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            done.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
