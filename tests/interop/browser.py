"""Chromium without a screen, and a page in it. Its driver speaks WebDriver, which is JSON over HTTP: that takes no package, where Selenium's client takes twelve.

The packages are Debian's: chromium, chromium-driver.
"""

import base64
import contextlib
import http.client
import json
import os
import shutil
from pathlib import Path

import pytest

from procs import Process, eventually, free_port

MISSING = "chromium and its driver are missing: apt-get install chromium chromium-driver"
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
# What a page was renewed away from under a click, or covers for a moment.
PASSING = {"stale element reference", "element click intercepted", "element not interactable", "no such element"}
TAB = "\ue004"


def installed():
    return bool(shutil.which("chromium") and shutil.which("chromedriver"))


def chromium(folder):
    """A browser; where there is none, the test is left out, and fails in CI."""
    if not installed():
        if os.environ.get("CI") != "true":
            pytest.skip(MISSING)
        raise AssertionError(MISSING)
    return Browser(folder)


class Refused(Exception):
    """The driver does not do what it was told."""

    def __init__(self, error, message):
        super().__init__(f"{error}: {message}")
        self.error = error


class Browser:
    """One window of one browser. `site` is what paths are relative to."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.site, self.port, self.session = "", free_port(), None
        env = {"HOME": str(folder), "TMPDIR": str(folder), "XDG_CONFIG_HOME": str(folder / "config"), "XDG_CACHE_HOME": str(folder / "cache")}
        self.process = Process(["chromedriver", f"--port={self.port}"], folder / "chromedriver.log", env=env)
        self.process.wait_for("started successfully", 30)
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run"]
        # With a pipe it ends when its driver does, also when that is killed.
        arguments += ["--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}", "--window-size=1280,900"]
        options = {"args": arguments, "binary": shutil.which("chromium")}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}, "unhandledPromptBehavior": "ignore"}
        self.session = self.tell("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def tell(self, method, path, body=None):
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            link.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
            answer = json.load(link.getresponse())["value"]
        finally:
            link.close()
        if isinstance(answer, dict) and "error" in answer:
            raise Refused(answer["error"], answer["message"])
        return answer

    def do(self, what, body=None):
        return self.tell("POST", f"/session/{self.session}/{what}", body or {})

    def ask(self, what):
        return self.tell("GET", f"/session/{self.session}/{what}")

    def protocol(self, command, **parameters):
        """A command of Chromium's own protocol, for what WebDriver has no word for."""
        return self.do("goog/cdp/execute", {"cmd": command, "params": parameters})

    def script(self, text, *arguments):
        """What a function's body gives in the page; a promise is waited for. It runs also where the page's own scripts do not."""
        return self.do("execute/sync", {"script": text, "args": list(arguments)})

    # How it looks.

    def open(self, path):
        self.do("url", {"url": self.site + path})
        return self

    def path(self):
        return self.ask("url").removeprefix(self.site)

    def colours(self, scheme):
        """Light or dark, and no colour on its way from one to the other."""
        features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        self.protocol("Emulation.setEmulatedMedia", features=[{"name": name, "value": value} for name, value in features.items()])

    def width(self, pixels, height=900):
        self.protocol("Emulation.setDeviceMetricsOverride", width=pixels, height=height, deviceScaleFactor=1, mobile=False)

    def scripting(self, on):
        self.protocol("Emulation.setScriptExecutionDisabled", value=not on)

    def forget(self):
        """No cookie, and each setting as it was."""
        with contextlib.suppress(Refused):
            self.do("alert/accept")
        self.do("url", {"url": "about:blank"})
        self.tell("DELETE", f"/session/{self.session}/cookie")
        self.scripting(True)
        self.colours("light")
        self.width(1280)

    def picture(self, file):
        """The whole page as a PNG."""
        size = self.protocol("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 4000), "scale": 1}
        data = self.protocol("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
        Path(file).write_bytes(base64.b64decode(data))

    def complaints(self):
        """What the browser has complained of since it was asked: scripts that failed, and what the policy of the page forbade."""
        return [entry["message"] for entry in self.do("se/log", {"type": "browser"}) if entry["level"] == "SEVERE"]

    # What a person sees and does.

    def find(self, xpath, seconds=10.0):
        """An element, which may come."""
        def found():
            answer = self.do("elements", {"using": "xpath", "value": xpath})
            return answer and answer[0][ELEMENT]

        element = eventually(found, seconds, 0.05)
        assert element, f"{xpath} is not on {self.ask('url')}:\n{self.text()[:3000]}"
        return element

    def text(self, xpath="//body"):
        """What stands there to be read; nothing while the page is renewed."""
        try:
            return self.script("return document.evaluate(arguments[0], document, null, 9).singleNodeValue?.innerText ?? ''", xpath)
        except Refused:
            return ""

    def sees(self, *texts, seconds=15.0, within="//body"):
        """Waits for texts, which the page renews itself to show."""
        assert eventually(lambda: all(text in self.text(within) for text in texts), seconds, 0.05), f"{texts} is not on {self.ask('url')}:\n{self.text()}"
        return self

    def lacks(self, text, seconds=15.0):
        """Waits until a text has gone."""
        assert eventually(lambda: text not in self.text() and self.text(), seconds, 0.05), f"{text} is still on {self.ask('url')}:\n{self.text()}"

    def use(self, xpath, act):
        """Does something to an element, which may be renewed meanwhile."""
        def done():
            try:
                act(self.find(xpath))
                return True
            except Refused as refused:
                if refused.error not in PASSING:
                    raise
                self.last = refused
                return False

        assert eventually(done, 10, 0.05), self.last

    def press(self, xpath, confirm=None):
        """Clicks as a person does: what is covered or cannot be seen is not clicked. `confirm` answers the question that comes."""
        self.use(xpath, lambda element: self.do(f"element/{element}/click"))
        if confirm is not None:
            self.do("alert/accept" if confirm else "alert/dismiss")

    def button(self, label, within="", confirm=None):
        self.press(f"{within}//*[self::button or self::a][normalize-space()={json.dumps(label)}]", confirm)

    def type(self, field, text, within=""):
        """Types into the field of this name, in place of what is there."""
        def typed(element):
            if self.ask(f"element/{element}/name") == "input":
                self.do(f"element/{element}/clear")
            self.do(f"element/{element}/value", {"text": text})

        self.use(f"{within}//*[self::input or self::select][@name='{field}' and not(@type='hidden')]", typed)

    def said(self, *texts):
        """Waits for what the page says of an action."""
        self.sees(*texts, within="//p[contains(@class, 'said')]")

    def keys(self, text):
        """Presses a key for each character."""
        keys = [{"type": kind, "value": key} for key in text for kind in ("keyDown", "keyUp")]
        self.do("actions", {"actions": [{"type": "key", "id": "keys", "actions": keys}]})

    def tabs(self, times):
        """Presses Tab so often."""
        self.keys(TAB * times)

    def close(self):
        with contextlib.suppress(Exception):
            self.tell("DELETE", f"/session/{self.session}")
        self.process.stop(5)
