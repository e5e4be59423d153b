"""A headless Chromium, driven over its DevTools socket: what a page shows, says and asks for."""

import asyncio
import base64
import itertools
import re
import shutil
from contextlib import asynccontextmanager

import aiohttp

CHROMIUM = shutil.which("chromium")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


class Page:
    """One tab; `said` holds what the console and the log were told, `asked` every URL wanted."""

    def __init__(self, socket):
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers = {}
        self._loaded = asyncio.Event()
        self.said = []
        self.asked = []

    async def listen(self):
        async for message in self._socket:
            self._hear(message.json())

    def _hear(self, told):
        if "id" in told:
            self._answers.pop(told["id"]).set_result(told)
            return
        given = told["params"]
        match told["method"]:
            case "Page.loadEventFired":
                self._loaded.set()
            case "Log.entryAdded":
                self.said.append(given["entry"]["text"])
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown":
                self.said.append(str(given))
            case "Network.requestWillBeSent":
                self.asked.append(given["request"]["url"])

    async def call(self, method, **given):
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": given})
        told = await answer
        assert "error" not in told, told
        return told["result"]

    async def open(self, path):
        for domain in ("Page", "Log", "Network", "Runtime"):
            await self.call(f"{domain}.enable")
        await self.show(path)

    async def show(self, path):
        self.said.clear()
        self.asked.clear()
        self._loaded.clear()
        await self.call("Page.navigate", url=path.as_uri())
        await self._loaded.wait()

    async def look(self, *, width, scheme="light", media=""):
        """Set the width in pixels, light or dark, and the medium (`print`)."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        feature = {"name": "prefers-color-scheme", "value": scheme}
        await self.call("Emulation.setEmulatedMedia", media=media, features=[feature])

    async def value(self, expression):
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return result["result"]["value"]

    async def picture(self, path, height=None):
        """Save the whole page, or its upper `height` pixels, as PNG."""
        size = (await self.call("Page.getLayoutMetrics"))["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "scale": 1}
        shot = await self.call(
            "Page.captureScreenshot",
            captureBeyondViewport=True,
            clip=clip | {"height": height or size["height"]},
        )
        path.write_bytes(base64.b64decode(shot["data"]))


@asynccontextmanager
async def browser(profile):
    """Start a browser with an empty profile and give one tab; it is ended and waited for."""
    process = await asyncio.create_subprocess_exec(
        *(CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"),
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(60), aiohttp.ClientSession() as session:
            port = await _port(process.stderr)
            async with session.get(f"http://127.0.0.1:{port}/json") as reply:
                tab = next(tab for tab in await reply.json() if tab["type"] == "page")
            async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket)
                listening = asyncio.create_task(page.listen())
                yield page
                listening.cancel()
    finally:
        process.kill()
        await process.communicate()


async def _port(stderr):
    async for line in stderr:
        if found := re.search(rb"listening on ws://127\.0\.0\.1:(\d+)/", line):
            return int(found[1])
    raise AssertionError("the browser did not start")
