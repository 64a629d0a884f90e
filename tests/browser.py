"""A real Chromium, driven over its debugging pipe: open a page, press, type, look, print. No network, no package."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")]
OPTIONS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--hide-scrollbars", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe"),
]
KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Escape": 27}


class Browser:
    """One tab. Chromium reads commands from its file descriptor 3 and answers on 4, each ended by a zero byte."""

    def __init__(self, profile: Path) -> None:
        theirs_in, self.to = os.pipe()
        self.back, theirs_out = os.pipe()
        shell = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        command = ["bash", "-c", shell, str(CHROMIUM), *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, pass_fds=(theirs_in, theirs_out), **quiet)
        os.close(theirs_in)
        os.close(theirs_out)
        self.rest, self.number, self.session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.to)
        os.close(self.back)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return what it answers; what happens meanwhile is kept in `events`."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer)
                return dict(answer["result"])

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            more = os.read(self.back, 1 << 20)
            assert more, "chromium has ended"
            self.rest += more
        first, _, self.rest = self.rest.partition(b"\0")
        message = dict(json.loads(first))
        if "id" not in message:
            self.events.append(message)
        return message

    def wait(self, method: str) -> None:
        """Wait for an event that has not been waited for."""
        while not any(event["method"] == method for event in self.events):
            self._read()
        self.events = [event for event in self.events if event["method"] != method]

    def open(self, page: Path, fragment: str = "", width: int = 1400, height: int = 900, scripts: bool = True) -> None:
        """Open a page in a window of this size, afresh even where only the fragment is another."""
        self.send("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        for url in ("about:blank", page.as_uri() + fragment):
            self.events.clear()
            self.send("Page.navigate", url=url)
            self.wait("Page.loadEventFired")

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page, also where the page's own scripts are off."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def check_first_screen(self, page: Path, width: int, height: int, *selectors: str) -> None:
        """Open the page, and assert that these elements lie whole within the first screen."""
        self.open(page, width=width, height=height)
        for selector in selectors:
            left, top, right, bottom = self.box(selector)
            assert 0 <= left < right <= width, selector
            assert 0 <= top < bottom <= height, selector

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the first element that a selector finds, in the window."""
        found = self.run(f"(b => [b.left, b.top, b.right, b.bottom])({_first(selector)}.getBoundingClientRect())")
        return tuple(found)

    def move(self, x: float, y: float) -> None:
        """Move the mouse."""
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str, times: int = 1) -> None:
        """Click the middle of an element, scrolled into sight, one or several times in a row."""
        self.run(f"{_first(selector)}.scrollIntoView({{block: 'center'}})")
        left, top, right, bottom = self.box(selector)
        self._clicks((left + right) / 2, (top + bottom) / 2, times)

    def double_click(self, x: float, y: float) -> None:
        """Double click a point of the window."""
        self.move(x, y)
        self._clicks(x, y, 2)

    def _clicks(self, x: float, y: float, times: int) -> None:
        for count in range(1, times + 1):
            self._mouse("mousePressed", x, y, count)
            self._mouse("mouseReleased", x, y, count)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag the mouse from a point of the window to another."""
        self._mouse("mousePressed", *start, 1)
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=end[0], y=end[1], button="left", buttons=1)
        self._mouse("mouseReleased", *end, 1)

    def _mouse(self, kind: str, x: float, y: float, count: int) -> None:
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=count)

    def tap(self, x: float, y: float) -> None:
        """Touch a point of the window with a finger."""
        self.send("Emulation.setTouchEmulationEnabled", enabled=True)
        self.send("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def press(self, key: str) -> None:
        """Press a key, an arrow or Escape."""
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key])

    def media(self, media: str = "", **features: str) -> None:
        """Pretend a medium, such as print, or a preference, such as prefers_color_scheme="dark"."""
        wanted = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.send("Emulation.setEmulatedMedia", media=media, features=wanted)

    def picture(self) -> np.ndarray:
        """What the window shows, (height, width, 3)."""
        data = base64.b64decode(self.send("Page.captureScreenshot")["data"])
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB")).astype(int)

    def problems(self) -> list[str]:
        """What the browser complained about, such as a script that its policy forbids."""
        told = [event for event in self.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]
        return [json.dumps(event["params"]) for event in told]


def _first(selector: str) -> str:
    return f"document.querySelector({json.dumps(selector)})"
