"""A real browser without a window, driven over a pipe by the DevTools protocol."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "google-chrome", "chromium-browser", "google-chrome-stable")
_SECONDS = 60.0  # for one answer, on a busy machine


def program() -> str | None:
    """The browser on the PATH, or None."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


class Browser:
    """One process of the browser."""

    def __init__(self, path: str, profile: Path) -> None:
        theirs, self._send = os.pipe()
        self._receive, answers = os.pipe()
        command = [
            *(
                path,
                "--headless",
                "--remote-debugging-pipe",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
            ),
            *(
                "--hide-scrollbars",
                "--force-device-scale-factor=1",
                f"--user-data-dir={profile}",
                "about:blank",
            ),
        ]
        shell = f'exec "$@" 3<&{theirs} 4>&{answers}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "browser", *command],
            pass_fds=(theirs, answers),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(answers)
        os.set_blocking(self._receive, False)
        self._number = 0
        self._rest = b""
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **params: Any) -> Any:
        """The answer to one command."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(_SECONDS)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def _next(self, seconds: float) -> dict[str, Any]:
        until = time.monotonic() + seconds
        while b"\0" not in self._rest:
            if time.monotonic() > until:
                raise TimeoutError("the browser does not answer")
            try:
                part = os.read(self._receive, 1 << 20)
            except BlockingIOError:
                time.sleep(0.005)
                continue
            if not part:
                raise RuntimeError(f"the browser ended with {self._process.wait()}")
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))

    def listen(self) -> None:
        """Waits for the next event."""
        self.events.append(self._next(_SECONDS))

    def close(self) -> None:
        """Ends the process."""
        try:
            self.call("Browser.close")
            self._process.wait(_SECONDS)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._send)
            os.close(self._receive)

    @contextmanager
    def page(
        self, path: Path, *, scripts: bool = True, dark: bool = False, width: int = 1280
    ) -> Iterator[Page]:
        """A page of its own, loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        self.events.clear()
        for domain in ("Page", "Network", "Log", "Runtime"):
            page.call(f"{domain}.enable")
        page.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        page.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        page.call("Page.navigate", url=path.as_uri())
        page.wait_for_event("Page.loadEventFired")
        if scripts:
            page.wait_for("document.documentElement.dataset.ready")
        try:
            yield page
        finally:
            self.call("Target.closeTarget", targetId=target)


class Page:
    """One page. What scripts answer is JSON."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def call(self, method: str, **params: Any) -> Any:
        """The answer to one command of the protocol."""
        return self._browser.call(method, self._session, **params)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page, also where the page itself may run no scripts."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def texts(self, selector: str) -> list[str]:
        """The text of all elements that match, spaces folded."""
        found = f"[...document.querySelectorAll({json.dumps(selector)})]"
        return [
            str(text)
            for text in self.evaluate(f"{found}.map((e) => e.textContent.replace(/\\s+/g, ' ').trim())")
        ]

    def number(self, selector: str) -> int:
        """How many elements match."""
        return int(self.evaluate(f"document.querySelectorAll({json.dumps(selector)}).length"))

    def box(self, selector: str) -> dict[str, float]:
        """Where the first match is, in pixels of the window, once it is scrolled into view."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{element}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        return dict(self.evaluate(f"{element}.getBoundingClientRect().toJSON()"))

    def wait_for(self, expression: str) -> None:
        """Returns when the expression is true."""
        until = time.monotonic() + _SECONDS
        while not self.evaluate(expression):
            assert time.monotonic() < until, f"never true: {expression}; {self.complaints()}"
            time.sleep(0.01)

    def wait_for_event(self, method: str) -> None:
        """Returns when the page has said so."""
        while not self._of(method):
            self._browser.listen()

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """``mouseMoved``, ``mousePressed`` or ``mouseReleased``."""
        if kind != "mouseMoved":
            more = {"button": "left", "clickCount": 1, **more}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def key(self, name: str) -> None:
        """A key that is pressed and released, such as ``Tab``, ``ArrowRight`` or ``+``."""
        codes = {
            "Tab": 9,
            "Enter": 13,
            "Escape": 27,
            "ArrowLeft": 37,
            "ArrowUp": 38,
            "ArrowRight": 39,
            "ArrowDown": 40,
        }
        text = {"text": name} if len(name) == 1 else {"text": "\r"} if name == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            more = text if kind == "keyDown" else {}
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=name,
                windowsVirtualKeyCode=codes.get(name, 0),
                **more,
            )

    def requests(self) -> list[str]:
        """Addresses that were asked for, but those that hold their content themselves."""
        urls = [event["request"]["url"] for event in self._of("Network.requestWillBeSent")]
        return [url for url in urls if not url.startswith(("data:", "blob:"))]

    def complaints(self) -> list[str]:
        """What the console says: errors, warnings, exceptions, violations of the policy."""
        entries = [event["entry"]["text"] for event in self._of("Log.entryAdded")]
        calls = [str(event["args"]) for event in self._of("Runtime.consoleAPICalled")]
        thrown = [str(event["exceptionDetails"]) for event in self._of("Runtime.exceptionThrown")]
        return entries + calls + thrown

    def screenshot(self, path: Path, selector: str | None = None, scale: float = 1.0) -> None:
        """The whole page, or an element, as PNG."""
        element = json.dumps(selector or "body")
        self.evaluate("scrollTo({top: 0, behavior: 'instant'})")
        box = self.evaluate(f"document.querySelector({element}).getBoundingClientRect().toJSON()")
        clip = {"x": box["x"], "y": box["y"], "width": box["width"], "height": box["height"], "scale": scale}
        shot = self.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _of(self, method: str) -> list[dict[str, Any]]:
        return [
            event["params"]
            for event in self._browser.events
            if event.get("method") == method and event.get("sessionId") == self._session
        ]
