"""The app's page without a browser: its events, told over HTTP as the page tells them."""

import json
import secrets
import time
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

_SECONDS = 120  # for an answer


class AppClient:
    """One page of the app, with the form for three scenes.

    Raises OSError or HTTPException when the app ends, ValueError for what the app refuses.
    """

    def __init__(self, address: str):
        self._address = address.rstrip("/")
        self._session = secrets.token_hex(5)
        with urllib.request.urlopen(f"{self._address}/config", timeout=_SECONDS) as answer:
            config = json.load(answer)
        self._page = config["components"], config["dependencies"]  # all but the scenes' part
        self._parts, self._events = self._page
        self._story = self._part("Story")["id"]
        self._values = {part["id"]: part["props"].get("value") for part in self._parts}
        self._names: list[str] = []
        self._take_over(self._event("load"))
        self._render()

    def stories(self) -> list[str]:
        """Names of the stories that the page offers."""
        return self._names

    def choose(self, name: str) -> str:
        """Opens a story in the form; what the page then shows beside it, HTML."""
        self._values[self._story] = name
        shown = self._take_over(self._event("input", self._story))
        self._render()
        return shown

    def prompts(self) -> list[str]:
        """The scenes' prompts in the form."""
        return [self._values[self._part(f"Scene {number}")["id"]] for number in (1, 2, 3)]

    def fill_in(self, prompts: Sequence[str], **settings: Any) -> None:
        """Types the prompts of the scenes, and settings of the story by label."""
        for number, prompt in enumerate(prompts, 1):
            self._values[self._part(f"Scene {number}")["id"]] = prompt
        for label, value in settings.items():
            self._values[self._part(label)["id"]] = value

    def generate(self) -> str:
        """Has the story made; what the page shows at the end, HTML."""
        shown = self._take_over(self._event("click", self._part("Generate")["id"]))
        while "state waiting" in shown or "state running" in shown:
            time.sleep(0.5)
            shown = self._take_over(self._event("tick"))
        return shown

    def _take_over(self, event: dict[str, Any]) -> str:
        """Has an event answered; the texts of the answer, HTML."""
        *_, answer = self._answers(event)
        for part, value in zip(event["outputs"], answer["data"], strict=True):
            update = value if isinstance(value, dict) and "__type__" in value else {"value": value}
            if part == self._story and "choices" in update:
                self._names = [name for _, name in update["choices"]]
            if "value" in update:
                self._values[part] = update["value"]
        return "".join(value for value in answer["data"] if isinstance(value, str))

    def _part(self, label: str) -> dict[str, Any]:
        for part in self._parts:
            if label in (part["props"].get("label"), part["props"].get("value")):
                return part
        raise LookupError(label)

    def _event(self, kind: str, of: int | None = None) -> dict[str, Any]:
        for event in self._events:
            if kind in [name for part, name in event["targets"] if of in (None, part)]:
                return event
        raise LookupError(kind)

    def _render(self) -> None:
        """Gets the part of the form for the scenes, which is made anew for each story."""
        *_, answer = self._answers(self._events[0])
        made = answer["render_config"]
        self._parts = [*self._page[0], *made["components"]]
        self._events = [*self._page[1], *made["dependencies"]]
        self._values |= {part["id"]: part["props"].get("value") for part in made["components"]}

    def _answers(self, event: dict[str, Any]) -> Iterator[dict[str, Any]]:
        told = {
            "data": [self._values.get(part) for part in event["inputs"]],
            "fn_index": event["id"],
            "session_hash": self._session,
        }
        request = urllib.request.Request(
            f"{self._address}/gradio_api/queue/join",
            json.dumps(told).encode(),
            {"content-type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=_SECONDS).close()
        address = f"{self._address}/gradio_api/queue/data?session_hash={self._session}"
        with urllib.request.urlopen(address, timeout=_SECONDS) as lines:
            for line in lines:
                if not line.startswith(b"data:"):
                    continue
                message = json.loads(line.removeprefix(b"data:"))
                if message["msg"].startswith("process_") and not message.get("success", True):
                    raise ValueError(message["output"])
                if message["msg"] in ("process_generating", "process_completed"):
                    yield message["output"]
                if message["msg"] == "process_completed":
                    return
        raise ConnectionResetError("the app has ended")
