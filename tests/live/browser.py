"""A real browser for a test: headless Chromium, driven through the DevTools protocol over its pipe."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

PROGRAM = "chromium"
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--remote-debugging-pipe",
)


def browser_or_skip() -> str:
    """The path of the browser; a laptop without one skips the test by name, a build machine fails it."""
    found = shutil.which(PROGRAM)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{PROGRAM} is not installed")
        pytest.skip(f"{PROGRAM} is not installed")
    return found


class Browser:
    """One page in a browser of its own, with a profile that is thrown away."""

    def __init__(self, program: str, *, width: int = 1280, height: int = 900) -> None:
        self._program = program
        self._size = (width, height)
        self._number = 0
        self._buffer = b""
        self.console: list[str] = []
        """What the page complained about: exceptions, and what the browser logged."""
        self.requested: list[str] = []

    def __enter__(self) -> Browser:
        self._profile = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        to_child, self._write = os.pipe()
        self._read, from_child = os.pipe()
        # The browser reads commands from descriptor 3 and writes to 4. Copies above 9 leave room for both in the child.
        inward, outward = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_child, from_child))
        plumbing = f'exec "$0" "$@" 3<&{inward} 4>&{outward} {inward}<&- {outward}>&-'
        self._process = subprocess.Popen(
            ["bash", "-c", plumbing, self._program, *_OPTIONS, f"--user-data-dir={self._profile.name}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(inward, outward),
            start_new_session=True,
        )
        for end in (to_child, from_child, inward, outward):
            os.close(end)
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.resize(*self._size)
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        os.close(self._write)
        os.close(self._read)
        self._profile.cleanup()

    @property
    def pid(self) -> int:
        return self._process.pid

    def call(self, method: str, **parameters: Any) -> Any:
        """Ask the browser for one thing and wait for the answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if getattr(self, "_session", None):
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive(20.0)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return answer["result"]

    def _receive(self, seconds: float) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise AssertionError(f"the browser did not answer within {seconds:g} s")
            chunk = os.read(self._read, 65536)
            if not chunk:
                raise AssertionError("the browser has ended")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._note(message)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.console.append(str(parameters["exceptionDetails"].get("exception", {}).get("description")))
        if message.get("method") == "Network.requestWillBeSent":
            self.requested.append(parameters["request"]["url"])
        if message.get("method") == "Log.entryAdded":
            self.console.append(parameters["entry"]["text"])

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def resize(self, width: int, height: int) -> None:
        """The size of the page; a narrow one as on a phone."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def dark(self, on: bool = True) -> None:
        value = "dark" if on else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise AssertionError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait_for(self, script: str, seconds: float = 60.0) -> Any:
        """The value of an expression, as soon as it is true; a page that is not there yet has none."""
        end = time.monotonic() + seconds
        while True:
            found, told = None, ""
            try:
                found = self.evaluate(f"(found => found instanceof Node ? true : found)({script})")
            except AssertionError as error:
                told = str(error)
            if found:
                return found
            if time.monotonic() > end:
                text = self.evaluate("document.body ? document.body.innerText : ''")
                raise AssertionError(
                    f"{script} did not come true within {seconds:g} s; {told} {self.console}; the page says:\n{text}"
                )
            time.sleep(0.03)

    def text(self) -> str:
        """What a person can read on the page."""
        found: str = self.evaluate("document.body.innerText")
        return found

    def press(self, key: str) -> None:
        text = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
        code = {"Enter": 13, "Tab": 9, "Escape": 27}.get(key, ord(key[0]))
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                windowsVirtualKeyCode=code,
                **(text if kind == "keyDown" else {}),
            )

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def screenshot(self, path: Path) -> None:
        data = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))
