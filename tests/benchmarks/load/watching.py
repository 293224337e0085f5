"""From a line that a script prints to the same line on its page in Chromium."""

from __future__ import annotations

import contextlib
import os
import shutil
import zipfile
from collections.abc import Iterator

from playwright.sync_api import Browser, Page, sync_playwright
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from tests.benchmarks.figures import Figure, quantile
from tests.benchmarks.load.site import Load
from tests.running import AgentProcess, Member, Refused, until

LINES_A_SECOND = 10.0
MOST_SECONDS = 0.5
SANDBOX_SECONDS = 60.0
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
]
SCRIPT = """
import time
print("ready", flush=True)
time.sleep({wait})
for number in range({count}):
    print(f"line {{number}} printed {{time.time():.4f}}", flush=True)
    time.sleep({pause})
"""
# A line counts as seen in the frame after the one that it was drawn in.
WATCH = """
() => {
  window.seen = [];
  const lines = document.querySelector("[data-log-lines]");
  new MutationObserver((changes) => {
    const text = changes.flatMap((change) => [...change.addedNodes]).map((node) => node.textContent).join("");
    requestAnimationFrame(() => requestAnimationFrame(() => {
      for (const [, number, at] of text.matchAll(/line (\\d+) printed ([\\d.]+)/g))
        window.seen.push([Number(number), Date.now() / 1000 - Number(at)]);
    }));
  }).observe(lines, { childList: true, subtree: true });
}
"""


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """The Chromium of this machine, headless. Raises RuntimeError when there is none."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not path:
        raise RuntimeError("There is no Chromium: `make bench-agents` installs it for root, or set CHROMIUM to one.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


def signed_in(browser: Browser, url: str, email: str, password: str) -> Page:
    """A page of a new window whose member is signed in."""
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.request.post(
        f"{url}/login", data={"email": email, "password": password}, headers={"Accept": "application/json"}
    )
    return page


def lines_seen(load: Load, page: Page, count: int) -> list[Figure]:
    """Print so many lines on a machine of the member and in the server's sandbox, with the page open."""
    script = SCRIPT.format(wait=6, count=count, pause=1 / LINES_A_SECOND)
    folder = load.folder / "printing"
    with AgentProcess(load.yard, load.key, folder, "printing", options=["--allow-scripts"]) as agent:
        machine = agent.wait_online(load.member, 60)["id"]
        project = agent.root / "project"
        project.mkdir()
        (project / "train.py").write_text(script)
        job = load.member.new_job("printing", {"agent": machine}, {}, recipe="script", local_path=str(project))
        through_agent = _seen(load.member, page, load.yard.url, job, count)
    packed = folder / "project.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("train.py", script)
    dataset = int(load.member.new_dataset(packed, kind="script")["id"])
    ordered = _on_server(load.member, dataset)
    figures = [_figure("a member's machine", through_agent)]
    if ordered is None:
        return [
            *figures,
            Figure(
                "line printed to line seen, server", 0, "s", None, "left out: this server has no sandbox for scripts"
            ),
        ]
    return [*figures, _figure("server", _seen(load.member, page, load.yard.url, ordered, count))]


def _figure(place: str, lags: list[float]) -> Figure:
    details = f"{len(lags)} lines in Chromium; median {quantile(lags, 0.5):.2f} s, worst {max(lags):.2f} s"
    return Figure(
        f"line printed to line seen, {place}, p95", quantile(lags, 0.95), "s", MOST_SECONDS, details, {"seconds": lags}
    )


def _on_server(member: Member, dataset: int) -> int | None:
    """Order it once the worker has tried its walls; None where they do not stand."""

    def order() -> int | None:
        with contextlib.suppress(Refused):
            return member.new_job("printing", "server", {}, dataset, recipe="script")
        return None

    try:
        return until(order, SANDBOX_SECONDS, "the server takes scripts", 1)
    except AssertionError:
        return None


def _seen(member: Member, page: Page, url: str, job: int, count: int) -> list[float]:
    """Seconds from print to the frame that shows it, for each line."""
    until(lambda: "ready" in member.log(job), 120, "the script has begun", 0.2)
    page.goto(f"{url}/training-jobs/{job}")
    page.evaluate(WATCH)
    member.wait_for_status(job, "completed", seconds=120)
    with contextlib.suppress(PlaywrightTimeout):  # the last line is drawn a moment after the job is at its end
        page.wait_for_function(f"() => window.seen.length >= {count}", timeout=5_000)
    seen = dict(page.evaluate("() => window.seen"))
    missing = sorted(set(range(count)) - {int(number) for number in seen})
    assert not missing, f"lines {missing[:5]} of {count} were not seen"
    return list(seen.values())
