"""Real servers of 127.0.0.1 on free ports: HTTP that can be told to fail, and S3."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Site:
    """What the server serves, path -> bytes, and what it does wrong: path -> faults, one a request, then none.

    A fault is a status, or "cut" (the announced length, half the body, and the connection closed), or "hang up",
    or "stall" (half the body, and then nothing until the server ends).
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[int | str]] = {}
        self.requests: Counter[str] = Counter()
        self.asked: list[tuple[str, str | None]] = []  # path with query, Authorization
        self.url = ""
        self.ends = threading.Event()

    def add_folder(self, folder: Path, at: str = "/") -> None:
        for file in folder.rglob("*"):
            if file.is_file():
                self.files[at + file.relative_to(folder).as_posix()] = file.read_bytes()


class _Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.site.requests[path] += 1
        self.site.asked.append((self.path, self.headers["Authorization"]))
        faults = self.site.faults.get(path)
        fault = faults.pop(0) if faults else None
        data = self.site.files.get(path)
        if fault == "hang up":
            self.close_connection = True
            return
        if data is None or isinstance(fault, int):
            self.send_error(fault if isinstance(fault, int) else 404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if fault in ("cut", "stall") else data)
        if fault == "stall":
            self.site.ends.wait()
        self.close_connection = True

    def log_message(self, format: str, *arguments: Any) -> None: ...


@contextmanager
def http_site() -> Iterator[Site]:
    """A running server and what it serves."""
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": site}))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        site.ends.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def s3_server() -> Iterator[str]:
    """A running S3 server; yields its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()
