"""A headless Chromium driven over its debugging pipe (Chrome DevTools Protocol), with the standard library alone.

The profile is a fresh folder and no address outside this machine can be resolved.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
_PATIENCE_SECONDS = 120.0


def find_browser() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


_ON_3_AND_4 = "import os, sys; [os.dup2(int(sys.argv[i]), 2 + i) for i in (1, 2)]; os.execv(sys.argv[3], sys.argv[3:])"
"""the browser reads commands from descriptor 3 and answers on 4"""


def _start(program: str, profile: Path) -> tuple[IO[bytes], IO[bytes], subprocess.Popen[bytes]]:
    reads, from_us = os.pipe()
    from_browser, writes = os.pipe()
    theirs = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 10) for each in (reads, writes)]
    process = subprocess.Popen(
        [sys.executable, "-c", _ON_3_AND_4, *map(str, theirs), program, "--headless=new", "--no-sandbox",
         "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--remote-debugging-pipe",
         f"--user-data-dir={profile}", "about:blank"],
        pass_fds=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for each in (reads, writes, *theirs):
        os.close(each)
    return os.fdopen(from_browser, "rb", buffering=0), os.fdopen(from_us, "wb", buffering=0), process


class Browser:
    """One page. A context: it ends with the process."""

    def __init__(self, program: str, profile: Path) -> None:
        self._read, self._write, self._process = _start(program, profile)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.faults: list[str] = []
        """what the page threw, or was refused by its policy"""
        self.requests: list[str] = []
        """addresses that the page asked for"""

    def __enter__(self) -> Browser:
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._write.close()
        self._read.close()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command; events that come before its answer are noted."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._number:
                assert "error" not in found, found["error"]
                return found["result"]
            self._note(found)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            piece = self._read.read(1 << 16)
            assert piece, "the browser has ended"
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        about = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.faults.append(json.dumps(about["exceptionDetails"])[:500])
        if event.get("method") == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.faults.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])

    def look(self, width: int, height: int, *, is_dark: bool = False) -> None:
        """The size of the window and the scheme that the reader prefers."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )  # fmt: skip
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def evaluate(self, script: str) -> Any:
        """The value of an expression of the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """The first value of the expression that is true."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not (value := self.evaluate(script)):
            assert time.monotonic() < deadline, f"{script} stays {value!r}; {self.faults}; {self.text()[:2000]}"
            time.sleep(0.1)
        return value

    def text(self) -> str:
        return self.evaluate("document.body ? document.body.innerText : ''")

    def screenshot(self, path: Path, *, is_whole: bool = False) -> None:
        """A PNG of the window, or of the whole page."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=is_whole)
        path.write_bytes(base64.b64decode(found["data"]))
