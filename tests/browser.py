"""A real headless browser for tests, told over the Chrome DevTools protocol what to do."""

import base64
import importlib
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-headless-shell", "google-chrome", "chrome")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-quic"),
    *("--hide-scrollbars", "--disable-dev-shm-usage", "--remote-debugging-port=0"),
)

# Null while the element is missing, moves, or lies under another.
_MIDDLE = """(async () => {
    const element = %s;
    if (!element) return null;
    element.scrollIntoView({block: 'center', behavior: 'instant'});
    const before = element.getBoundingClientRect();
    await new Promise(done => setTimeout(done, 50));
    const box = element.getBoundingClientRect();
    if (['x', 'y', 'width', 'height'].some(side => box[side] !== before[side])) return null;
    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
    return element.contains(document.elementFromPoint(x, y)) ? [x, y] : null;
})()"""


def find_browser() -> str:
    """M2DIT_BROWSER, or a Chromium on PATH; skips the test where there is neither."""
    pytest.importorskip("websockets", reason="optional extra: websockets, to talk to a browser")
    named = os.environ.get("M2DIT_BROWSER")
    found = named or next(filter(None, map(shutil.which, _NAMES)), None)
    if not found:
        pytest.skip("optional extra: no Chromium on PATH, and M2DIT_BROWSER names none")
    return found


@contextmanager
def open_browser() -> Iterator["Page"]:
    """A browser with one empty page, ended with all its processes when left."""
    executable = find_browser()
    # The profile may still be written to while the browser ends.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [executable, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = _port(Path(profile) / "DevToolsActivePort", process)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=10) as answer:
                pages = [page for page in json.load(answer) if page["type"] == "page"]
            # Not named at the top: an optional extra, which the type checker need not find either.
            connect = importlib.import_module("websockets.sync.client").connect
            with connect(pages[0]["webSocketDebuggerUrl"], max_size=None) as socket:
                yield Page(socket)
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _port(file: Path, process: subprocess.Popen) -> int:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        # It appears empty and is then written to.
        if file.is_file() and len(lines := file.read_text().splitlines()) == 2:
            return int(lines[0])
        time.sleep(0.05)
    raise RuntimeError("the browser did not start within 30 s")


class Page:
    """One page. `errors` are all messages of its console that are errors, and requests refused."""

    def __init__(self, socket: Any):
        self._socket = socket
        self._last = 0
        self.errors: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=30))
            if message.get("id") == self._last:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        match message["method"]:
            case "Runtime.exceptionThrown":
                self.errors.append(str(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "assert"):
                self.errors.append(str([a.get("value", a) for a in params["args"]]))
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise."""
        answer = self.call(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 60) -> Any:
        """Until the expression is truthy; its value. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if value := self.run(
                f"(async v => (v = await v) instanceof Node ? true : v)({script})"
            ):
                return value
            time.sleep(0.1)
        raise TimeoutError(f"after {seconds} s not true: {script}")

    def size(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def dark(self, on: bool) -> None:
        value = "dark" if on else "light"
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": value}],
        )

    def attach(self, selector: str, file: Path) -> None:
        """Chooses a file for the first input that a CSS selector finds."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(file)], nodeId=node)

    def click(self, element: str) -> None:
        """Presses the mouse on the middle of the element that a JavaScript expression gives.

        Waits until it stands still and nothing covers it; TimeoutError if that does not happen.
        """
        x, y = self.wait(_MIDDLE % element)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent",
                type=kind,
                x=x,
                y=y,
                button="none" if kind == "mouseMoved" else "left",
                clickCount=0 if kind == "mouseMoved" else 1,
            )

    def type(self, field: str, text: str) -> None:
        """Replaces a field's text by mouse and keys; AssertionError if the field takes none."""
        self.click(field)
        # Without these checks the keys would go to wherever the focus was, or nowhere.
        for lock in ("disabled", "readOnly"):
            assert not self.run(f"({field}).{lock}"), f"{lock}: {field}"
        assert self.run(f"document.activeElement === ({field})"), f"not in focus: {field}"
        self.call(
            "Input.dispatchKeyEvent",
            type="rawKeyDown",
            key="a",
            modifiers=2,  # Ctrl
            windowsVirtualKeyCode=65,
            # A browser without a window has no shortcuts of its own.
            commands=["selectAll"],
        )
        self.call(
            "Input.dispatchKeyEvent", type="keyUp", key="a", modifiers=2, windowsVirtualKeyCode=65
        )
        for letter in text:
            self.press(letter)
        value = self.run(f"({field}).value")
        assert value == text, f"holds {value!r} after {text!r} was typed: {field}"

    def press(self, key: str) -> None:
        """Enter, Tab, or the key of a letter."""
        code, text = {"Enter": (13, "\r"), "Tab": (9, "")}.get(key, (0, key))
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                text=text if kind == "keyDown" else "",
                windowsVirtualKeyCode=code,
            )

    def screenshot(self, path: Path | str, whole: bool = True) -> None:
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole, format="png")
        Path(path).write_bytes(base64.b64decode(data["data"]))
