"""Real servers of 127.0.0.1 on free ports: HTTP that can be told to fail, S3, and MLflow's."""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from tests.helpers.project import ROOT


class Site:
    """The files of a server, path -> bytes, and its faults, path -> one for each request, then none.

    A fault is a status, or "cut" (the announced length, half the body, and the connection closed), or "hang up",
    or "stall" (half the body, and then nothing until the server ends).
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[int | str]] = {}
        self.redirects: dict[str, str] = {}  # path -> where it leads
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
        if path in self.site.redirects:
            self.send_response(302)
            self.send_header("Location", self.site.redirects[path])
            self.send_header("Content-Length", "0")
            self.end_headers()
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


def write_certificate(file: Path) -> None:
    """A private key and a certificate for 127.0.0.1 that nobody has signed but itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(private + certificate.public_bytes(Encoding.PEM))


@contextmanager
def serve_http(certificate: Path | None = None) -> Iterator[Site]:
    """A running server and what it serves; with a certificate over https."""
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": site}))
    if certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    site.url = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        site.ends.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def serve_s3() -> Iterator[str]:
    """A running S3 server; yields its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


@contextmanager
def serve_mlflow(folder: Path, database: Path) -> Iterator[str]:
    """Run MLflow's server on a copy of an SQLite database; yields its address."""
    from flows.orchestration.prefect_server import find_free_port

    folder.mkdir()
    shutil.copy(database, folder / "mlflow.db")
    process = start_mlflow(folder, port := find_free_port())
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def start_mlflow(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start MLflow's server on the mlflow.db in a folder, in a new process group; wait until it answers."""
    from flows.orchestration.prefect_api import is_healthy

    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination", str(folder / "artifacts"), "--workers", "1",
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    until = time.monotonic() + 180
    while not is_healthy(f"http://127.0.0.1:{port}/health"):
        if time.monotonic() > until or process.poll() is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            raise AssertionError((folder / "log").read_text())
        time.sleep(0.1)
    return process


DASK_SETTINGS = {
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "60s",
    "DASK_DISTRIBUTED__WORKER__DAEMON": "False",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
}


class Listener:
    """A server that keeps what is posted to it."""

    def __init__(self, status: int = 204) -> None:
        heard = self.heard = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *arguments) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
