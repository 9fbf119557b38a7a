"""Drive a headless Chromium through the pipe of its DevTools protocol."""

import base64
import json
import os
import select
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ANSWER_SECONDS = 60.0
FLAGS = (
    "--headless",
    "--no-sandbox",  # containers have no user namespaces, and the pages are our own
    "--enable-unsafe-swiftshader",  # parallel coordinates are drawn by WebGL
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


def find_browser() -> str | None:
    """The browser's program; None if there is none."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


class Browser:
    """One tab. Messages go to descriptor 3 of the browser and come from its descriptor 4."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing = reading, writing
        self._buffer, self._number = b"", 0
        self._session: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Sends a command and returns its answer; events that arrive meanwhile are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **self._session}
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, (method, answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._reading], [], [], ANSWER_SECONDS)
            data = os.read(self._reading, 1 << 20) if ready else b""
            assert data, "the browser has ended or does not answer"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def open(self, page: Path, *, width: int, height: int, dark: bool) -> None:
        """Loads a file in a window of that size, in light or dark, and waits for its load event."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.shade(dark=dark)
        self.events.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def shade(self, *, dark: bool) -> None:
        """Switches the system to light or dark."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def mouse(self, kind: str, x: float, y: float) -> None:
        """Sends a mouse event: Moved, Pressed or Released, at CSS pixels of the window."""
        button = {"button": "none" if kind == "Moved" else "left", "buttons": 1, "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, **button)

    def evaluate(self, expression: str) -> Any:  # noqa: ANN401  (whatever JSON holds)
        """Returns the value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, *, whole: bool = False) -> bytes:
        """A PNG of the window, or of the whole page."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        return base64.b64decode(answer["data"])

    def requests(self) -> list[str]:
        """Addresses that the page has requested, except itself and its data URIs."""
        asked = [event for event in self.events if event["method"] == "Network.requestWillBeSent"]
        urls = [str(event["params"]["request"]["url"]) for event in asked]
        return [url for url in urls if not url.startswith(("data:", "blob:"))][1:]

    def complaints(self) -> list[str]:
        """Errors and warnings of the console, except those of the WebGL driver about speed."""
        wanted = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        found = [json.dumps(event["params"]) for event in self.events if event["method"] in wanted]
        return [text for text in found if "GL Driver Message" not in text]


@contextmanager
def browser(program: str, profile: Path) -> Iterator[Browser]:
    """Starts a browser with an empty profile and ends it with the block."""
    (to_read, to_write), (from_read, from_write) = os.pipe(), os.pipe()
    quiet = os.open(os.devnull, os.O_RDWR)
    # Copied to high numbers first, so that no descriptor is overwritten before it is used.
    copies = [*((quiet, n) for n in (0, 1, 2)), (to_read, 100), (from_write, 101)]
    copies += [(100, 3), (101, 4)]
    pid = os.posix_spawn(
        program,
        [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, *pair) for pair in copies],
        setpgroup=0,
    )
    for number in (to_read, from_write, quiet):
        os.close(number)
    try:
        yield Browser(from_read, to_write)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(to_write)
        os.close(from_read)
