"""The explorer in a real browser: JupyterLab shows it, a slider is dragged, and the picture follows."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import nbformat

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = [name for name in ("jupyterlab", "ipywidgets", "websocket") if importlib.util.find_spec(name) is None]
PATIENCE = 600.0  # seconds for any one step; a quiet machine needs a few
TOKEN = "for-this-test-alone"
CELL = """
from pathlib import Path
from tempfile import TemporaryDirectory

from flowvae import MAF, Experiment, Pinwheel, Training
from flowvae.explorer.explorer import explore
from flowvae.networks import MLP

experiment = Experiment(
    latent=2,
    data=Pinwheel(train=60, valid=20, test=50),
    prior=MAF(2, (8,)),
    encoder=MLP((8,)),
    decoder=MLP((8,)),
    inference=Training(epochs=1),
)
with TemporaryDirectory() as folder:
    run = experiment.run(Path(folder) / "maf", draws=2, figures=False, progress=False)
explore(run)
"""
PANEL = "[...window.jupyterapp.shell.widgets('main')].find(w => w.context?.isReady)"
FAILED = f"""{PANEL}.content.widgets[0].model.outputs.toJSON()
  .filter(o => o.output_type == 'error').map(o => o.ename + ': ' + o.evalue).join()"""
READOUT = "document.querySelector('.widget-slider .widget-readout').textContent"
PICTURE = """(() => {
  const picture = document.querySelector('.jp-OutputArea img.widget-image');
  if (!picture || !picture.complete || !picture.naturalWidth) return null;
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [picture.naturalWidth, picture.naturalHeight];
  canvas.getContext('2d').drawImage(picture, 0, 0);
  return canvas.toDataURL();
})()"""
HANDLE = """(() => {
  const handle = document.querySelector('.widget-slider .noUi-handle');
  if (!handle) return null;
  handle.scrollIntoView({block: 'center'});
  const box = handle.getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2];
})()"""


class Page:
    """A page of the browser, by the DevTools protocol."""

    def __init__(self, address: str) -> None:
        import websocket

        self.socket = websocket.create_connection(address, timeout=PATIENCE, suppress_origin=True)
        self.numbers = itertools.count(1)

    def call(self, method: str, **parameters: Any) -> Any:
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives; None where it fails, since a page is not ready at once."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return None if "exceptionDetails" in answer else answer["result"].get("value")

    def drag(self, start: list[float], by: float) -> None:
        x, y = start
        mouse = {"y": y, "button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mousePressed", x=x, **mouse)
        for part in (0.25, 0.5, 0.75, 1.0):
            self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + part * by, buttons=1, **mouse)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=x + by, **mouse)


def until(what: str, ask: Callable[[], Any], log: Path, patience: float = PATIENCE) -> Any:
    """The first answer that is not empty."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if answer := ask():
            return answer
        time.sleep(0.1)
    pytest.fail(f"{what}: not within {patience:.0f} s\n{log.read_text(errors='replace')[-2000:]}")


@contextmanager
def running(command: list[str], folder: Path, log: Path) -> Iterator[None]:
    """A process with all of its children, whose files stay in the folder; killed in the end."""
    own = {name: str(folder / name.lower()) for name in ("HOME", "IPYTHONDIR", "TMPDIR", "XDG_CACHE_HOME")}
    own |= {f"JUPYTER_{name}_DIR": str(folder / f"jupyter-{name.lower()}") for name in ("CONFIG", "DATA", "RUNTIME")}
    own |= {f"JUPYTERLAB_{name}_DIR": str(folder / f"lab-{name.lower()}") for name in ("SETTINGS", "WORKSPACES")}
    for path in own.values():
        Path(path).mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | own, stdout=output, stderr=output, start_new_session=True
        )
        try:
            yield
        finally:
            process.terminate()  # JupyterLab ends its kernels, which are in sessions of their own
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                pass
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(address: str) -> Any:
    try:
        with urllib.request.urlopen(address, timeout=5) as reply:
            return json.load(reply)
    except OSError:
        return None


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder with a short path: the browser puts a socket there, whose path may not exceed 107 characters."""
    with tempfile.TemporaryDirectory(prefix="explorer-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine: install it to test widgets in a browser")
@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}; the extra `dev` brings them")
def test_a_slider_moves_the_picture(tmp_path: Path, home: Path) -> None:
    work, lab_home, browser_home = home / "work", home / "lab", home / "browser"
    for folder in (work, lab_home, browser_home):
        folder.mkdir()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}  # or a dialogue asks for one
    nbformat.write(notebook, work / "explorer.ipynb")
    settings = lab_home / "lab-settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"fetchNews": "false", "checkForUpdates": false}')  # or a question covers the page
    port = free_port()
    lab = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser"]
    lab += [f"--ServerApp.port={port}", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={work}"]
    profile = browser_home / "profile"
    browser = [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    browser += ["--no-first-run", "--remote-debugging-port=0", f"--user-data-dir={profile}", "--window-size=1500,1100"]
    lab_log, log = tmp_path / "lab.log", tmp_path / "browser.log"
    site = f"http://127.0.0.1:{port}"
    with running(lab, lab_home, lab_log), running([*browser, "about:blank"], browser_home, log):
        opened = profile / "DevToolsActivePort"
        until("the browser", lambda: opened.is_file() and opened.read_text().count("\n"), log)
        tools = f"http://127.0.0.1:{opened.read_text().split()[0]}/json/list"
        pages = until("a page", lambda: [p for p in answers(tools) or () if p["type"] == "page"], log)
        until("JupyterLab", lambda: answers(f"{site}/api/status?token={TOKEN}"), lab_log)
        page = Page(pages[0]["webSocketDebuggerUrl"])
        try:
            page.call("Emulation.setFocusEmulationEnabled", enabled=True)  # without focus no notebook is current
            page.call("Page.navigate", url=f"{site}/lab/tree/explorer.ipynb?token={TOKEN}")
            until("the kernel", lambda: page.value(f"{PANEL}.sessionContext.session.kernel.status === 'idle'"), lab_log)
            page.value(f"window.jupyterapp.shell.activateById({PANEL}.id); true")
            page.value("window.jupyterapp.commands.execute('notebook:run-all-cells'); true")
            until("the picture", lambda: page.value(PICTURE) or page.value(FAILED), lab_log)
            assert not page.value(FAILED), page.value(FAILED)
            start = until("the slider", lambda: page.value(HANDLE), lab_log)
            before, number = page.value(PICTURE), page.value(READOUT)
            page.drag(start, by=60)
            until("another number", lambda: page.value(READOUT) not in (None, number), lab_log)
            until("another picture", lambda: page.value(PICTURE) not in (None, before), lab_log)
        finally:
            page.socket.close()
    assert [path.name for path in work.iterdir() if not path.name.startswith(".")] == ["explorer.ipynb"]
