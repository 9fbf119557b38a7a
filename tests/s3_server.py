"""An S3 server on loopback, and wires to it that tests can cut, or that are slow and fail."""

import hashlib
import json
import logging
import math
import re
import secrets
import socket
import struct
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CHUNK = 1 << 16
BEARER = re.compile(rb"(?i)\r\nauthorization: bearer[^\r]*")
REQUEST = re.compile(rb"(GET|HEAD|PUT|POST|DELETE) /")
UNAVAILABLE = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n"
RESET = struct.pack("ii", 1, 0)
"""As SO_LINGER: a socket that is closed resets its connection."""


class Wire:
    """Passes TCP connections on to a port of 127.0.0.1, until it is cut."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._bytes_left = math.inf
        self._action: Callable[[], object] = self.cut
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._listen()

    def cut(self) -> None:
        """Drop what is connected and refuse what comes, as a server that is gone."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()
        with self._lock:
            self._bytes_left = math.inf
            for end in self._open:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
            self._open = []

    def call_after(self, num_bytes: int, action: Callable[[], object]) -> None:
        """Call something, once, when so many bytes have come from clients."""
        with self._lock:
            self._bytes_left, self._action = num_bytes, action

    def mend(self) -> None:
        """Listen again, on the same port."""
        self.cut()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._listen()

    def _listen(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):  # closed: cut
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                with self._lock:
                    self._open += [client, server]
                for ends, counted in (((client, server), True), ((server, client), False)):
                    threading.Thread(target=self._pump, args=(*ends, counted), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK):
                data = BEARER.sub(b"", data)  # of gs; moto fails on it
                if counted and self._is_over(len(data)):
                    self._action()
                if not counted or self._passes(data, source):
                    sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def _passes(self, data: bytes, client: socket.socket) -> bool:
        """Whether the server gets what a client has sent."""
        return True

    def _is_over(self, num_bytes: int) -> bool:
        with self._lock:
            self._bytes_left -= num_bytes
            is_over = self._bytes_left < 0
            self._bytes_left = math.inf if is_over else self._bytes_left
            return is_over


class FarWire(Wire):
    """A wire on which every request takes `delay` seconds more, and a share of them `fails`.

    Which ones fail follows from their numbers and `seed`. Half of these reset their connection, the
    others are answered with status 503.
    """

    def __init__(
        self, target: int, *, delay: float = 0.0, fails: float = 0.0, seed: int = 0
    ) -> None:
        self._delay, self._fails, self._seed = delay, fails, seed
        self.num_requests = self.num_failed = 0
        super().__init__(target)

    def _passes(self, data: bytes, client: socket.socket) -> bool:
        if not REQUEST.match(data):  # the rest of one: clients wait for the answer to each
            return True
        with self._lock:
            text = f"{self._seed} {self.num_requests}"
            self.num_requests += 1
            draw = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / (1 << 64)
            self.num_failed += draw < self._fails
        time.sleep(self._delay)
        if draw >= self._fails:
            return True
        if draw >= self._fails / 2:
            client.sendall(UNAVAILABLE)
            return False
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.close()
        raise ConnectionResetError


class Bucket:
    """A bucket of its own on the server, reached over a wire of its own."""

    def __init__(self, server_port: int, wire: Wire | None = None) -> None:
        self.name = f"bucket{secrets.token_hex(6)}"
        self.server_port = server_port
        self.wire = wire or Wire(server_port)
        address = f"http://127.0.0.1:{server_port}"
        import boto3  # slow to import, as moto is

        resource: Any = boto3.resource("s3", endpoint_url=address, region_name="us-east-1")
        self._bucket = resource.create_bucket(Bucket=self.name)
        self.client = resource.meta.client

    def url(
        self, prefix: str = "", *, scheme: str = "s3", bucket: str = "", **options: object
    ) -> str:
        """A prefix of the bucket, over the wire. The server speaks enough of gs, too."""
        place = f"{scheme}://{bucket or self.name}/{prefix}".rstrip("/")
        more = "".join(f"&{name}={value}" for name, value in options.items())
        endpoint = f"http://127.0.0.1:{self.wire.port}"
        return f"{place}?endpoint_override={endpoint}&region=us-east-1{more}"

    def put(self, name: str, data: bytes) -> None:
        """Write an object past the wire."""
        self.client.put_object(Bucket=self.name, Key=name, Body=data)

    def upload(self, folder: Path, prefix: str) -> None:
        """Write all files below a folder."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder)}", path.read_bytes())

    def contents(self, prefix: str = "") -> dict[str, bytes]:
        """Names below the prefix, and bytes."""
        return {
            about.key.removeprefix(prefix).lstrip("/"): about.get()["Body"].read()
            for about in self._bucket.objects.filter(Prefix=prefix)
            if not about.key.endswith("/")
        }

    def unfinished(self) -> int:
        """Multipart uploads that were begun and not ended."""
        return len(list(self._bucket.multipart_uploads.all()))

    def allow_anyone(self) -> None:
        """Let requests without credentials in."""
        allow = {"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
        self.client.put_bucket_policy(Bucket=self.name, Policy=policy)

    @contextmanager
    def no_access(self) -> Iterator[None]:
        """The server knows no credentials meanwhile."""
        self._allow("0")
        try:
            yield
        finally:
            self._allow("inf")

    def _allow(self, num_requests: str) -> None:
        # Not urlopen, which remembers the proxies of whoever called it first.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        address = f"http://127.0.0.1:{self.server_port}/moto-api/reset-auth"
        plain = {"Content-Type": "text/plain"}
        opener.open(urllib.request.Request(address, num_requests.encode(), plain)).close()


@contextmanager
def s3_server() -> Iterator[int]:
    """A moto server in this process; yields its port."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield server.get_host_and_port()[1]
    finally:
        server.stop()
