"""A headless Chromium that runs a page of a folder and hands back what the page posts."""

import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, _NAMES)), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
)


class _Handler(SimpleHTTPRequestHandler):
    """Serves a folder; what is posted goes into a queue."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        super().do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posted.put(json.loads(body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def run_page(
    folder: Path,
    page: str,
    *,
    seconds: float = 240.0,
    flags: Sequence[str] = (),
    asked: list[str] | None = None,
    console: Path | None = None,
) -> Any:
    """Open `page` of `folder`; returns the JSON that it posts.

    `flags` are the browser's; the paths it asks for are appended to `asked`; what it logs, its
    console's lines among it, is written to the file `console`.
    """
    assert CHROMIUM is not None
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
    server.posted, server.asked = queue.Queue(), [] if asked is None else asked
    threading.Thread(target=server.serve_forever, daemon=True).start()
    profile = tempfile.mkdtemp()
    address = f"http://127.0.0.1:{server.server_port}/{page}"
    command = [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={profile}", address]
    with open(console or os.devnull, "wb") as log:
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
    try:
        return server.posted.get(timeout=seconds)
    finally:
        browser.terminate()
        browser.wait(timeout=60)
        server.shutdown()
        server.server_close()
        shutil.rmtree(profile, ignore_errors=True)
