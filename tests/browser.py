"""A headless Chromium, driven over its DevTools protocol. As much of it as the page's tests need."""

import base64
import json
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from piping import PATIENCE
from tools import find
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_websocket

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
    "--autoplay-policy=user-gesture-required",
    "--use-fake-device-for-media-stream",  # a microphone that beeps
    "--use-fake-ui-for-media-stream",  # which every page may use
)


class Browser:
    """A browser that runs. Its tabs know nothing of each other."""

    def __init__(self, folder: Path) -> None:
        found = find("chromium")
        assert found is not None
        command = [found, *FLAGS, f"--user-data-dir={folder}"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port, path = self._address(folder / "DevToolsActivePort")
        except BaseException:
            self.close()
            raise
        self.url = f"ws://127.0.0.1:{port}{path}"

    def _address(self, file: Path) -> list[str]:
        deadline = time.monotonic() + PATIENCE
        while not file.exists() or len(file.read_text().split()) < 2:
            assert time.monotonic() < deadline, "the browser does not start"
            time.sleep(0.05)
        return file.read_text().split()

    def close(self) -> None:
        """Ends it."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Tab:
    """A tab with a profile of its own: no cookies, no storage, no permission of another tab."""

    def __init__(self, browser: Browser) -> None:
        self.problems: list[str] = []  # what the page logged as errors
        self._number = 0
        with ExitStack() as begun:
            connecting = open_websocket(browser.url, max_size=2**26, open_timeout=PATIENCE)
            self._socket: ClientConnection = begun.enter_context(connecting)
            profile = self._call("Target.createBrowserContext")["browserContextId"]
            begun.callback(self._call, "Target.disposeBrowserContext", browserContextId=profile)
            tab = self._call("Target.createTarget", url="about:blank", browserContextId=profile)["targetId"]
            self._session = self._call("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log"):
                self.call(f"{domain}.enable")
            self._ending = begun.pop_all()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A DevTools method of the tab."""
        return self._call(method, session=self._session, **parameters)

    def _call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._socket.send(json.dumps(message | ({"sessionId": session} if session else {})))
        while True:
            answer = json.loads(self._socket.recv(timeout=PATIENCE))
            self._note(answer)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                result: dict[str, Any] = answer["result"]
                return result

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.problems.append(str(params["exceptionDetails"].get("exception", params)))
        if message.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(params["entry"]["text"])

    def show(self, url: str, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Opens a page in a window of that size."""
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && typeof client === 'object'")

    def value(self, expression: str) -> Any:
        """What some JavaScript gives; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = PATIENCE / 2) -> Any:
        """Waits until some JavaScript gives something true."""
        deadline = time.monotonic() + seconds
        while not (value := self.value(f"(() => {{ try {{ return {expression} }} catch {{ return null }} }})()")):
            assert time.monotonic() < deadline, f"never true: {expression}"
            time.sleep(0.03)
        return value

    def click(self, selector: str) -> None:
        """A real click of the mouse, which also lets the page make sound."""
        self.mouse("mousePressed", selector)
        self.mouse("mouseReleased", selector)

    def mouse(self, kind: str, selector: str) -> None:
        """Half of a click, to hold it."""
        place = f"(b => [b.x + b.width / 2, b.y + b.height / 2])(document.querySelector('{selector}')"
        self.value(f"document.querySelector('{selector}').scrollIntoView({{block: 'center'}})")
        x, y = self.value(f"{place}.getBoundingClientRect())")
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, modifiers: int = 0) -> None:
        """A key by its name; modifiers: 2 is Ctrl."""
        self.key("rawKeyDown", key, modifiers)
        self.key("keyUp", key, modifiers)

    def key(self, kind: str, key: str, modifiers: int = 0) -> None:
        """Half of a press, to hold it."""
        code = {"Enter": 13, "Escape": 27, "Tab": 9, " ": 32}[key]
        self.call(
            "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, modifiers=modifiers
        )

    def picture(self, file: Path) -> None:
        """A screenshot of the whole page."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """Closes it."""
        self._ending.close()

    def __enter__(self) -> "Tab":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
