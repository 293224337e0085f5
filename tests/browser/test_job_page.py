"""The job page of a script in a real browser: many curves, the switch of their rules, samples, the machine, all of it live."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from app import create_app
from models.accounts import User
from models.base import db, now, transaction
from models.training_jobs import TrainingJob
from routes.filters import value
from services import training_jobs
from services.training_jobs import Final, Order
from tests.browser.conftest import Site, Visit
from tests.running import until


@contextmanager
def yard(site: Site) -> Iterator[None]:
    """The yard's own verbs, beside the server that shows what they do."""
    with create_app(site.settings).app_context():
        yield
        db.session.remove()


def stored(site: Site, stream: str) -> int:
    """How many records of a stream the job's first attempt has."""
    job = training_jobs.queries.attempt_of(site.scene.script, 1)
    return int(job.stored.get(stream, 0))


def report(site: Site, stream: str, *items: dict[str, Any]) -> None:
    with yard(site):
        training_jobs.record(site.scene.script, 1, stream, stored(site, stream) + 1, list(items))


@pytest.fixture
def page(site: Site, visit: Visit) -> Page:
    visit.log_in()
    page = visit.open(f"/training-jobs/{site.scene.script}")
    expect(page.locator("[data-connection]")).to_have_text("Live")
    return page


def test_the_machine_is_drawn_and_goes_on_live(site: Site, visit: Visit, page: Page) -> None:
    panel = page.locator("[data-machine]")
    expect(panel.locator("figure")).to_have_count(6)
    expect(panel.locator("figcaption strong")).to_have_text(
        ["Memory", "Processor", "GPU", "Temperature", "Disk", "Network"]
    )
    label = panel.locator(".small-plot").first.get_attribute("aria-label")
    assert label is not None and label.startswith("Memory. Job: now 1.2 GB")
    newest = {"kind": "system", "seconds": 725.0, "memory_bytes": 3_300_000_000, "cpu_percent": 12.0, "gpus": []}
    report(site, "event", newest)
    expect(panel.locator("figure").first).to_contain_text("Job 3.3 GB")
    expect(page.locator('[data-figure="memory"]')).to_have_text("3.3 GB")
    many = [{"name": "NVIDIA L4", "percent": percent, "watts": 70.0} for percent in (10, 20, 30, 60)]
    report(site, "event", {**newest, "seconds": 730.0, "gpus": many})
    expect(panel.locator("figure").nth(2)).to_contain_text("GPU mean 30 % · GPU highest 60 % · 280 W")
    panel.locator("summary").first.click()
    expect(panel.locator("table").first).to_contain_text("3.3 GB")
    assert visit.complaints == []


def test_what_the_script_shows_appears_newest_first(site: Site, visit: Visit, page: Page) -> None:
    panel = page.locator("[data-samples]")
    expect(panel.locator("li strong").first).to_have_text("digits-160.png")
    assert page.evaluate("[...document.querySelectorAll('[data-samples] img')].length") == 4
    # wait_for_function evaluates a string in the page, which the page's own policy forbids from the second look on.
    drawn = "[...document.querySelectorAll('[data-samples] img')].some((image) => image.naturalWidth === 96)"
    until(lambda: page.evaluate(drawn), 30, "the picture is drawn")
    text = "<b>A sentence</b> of the model."
    sample = {
        "name": "answers-200.txt",
        "step": 200,
        "type": "text",
        "text": text,
        "piece": 0,
        "pieces": 1,
        "bytes": 31,
    }
    report(site, "samples", sample)
    expect(panel.locator("li").first).to_contain_text(text)  # as text: what a script writes is never markup
    with page.context.expect_page() as opened:
        panel.locator("a.sample-picture").first.click()
    assert opened.value.url.startswith(f"{site.url}/api/training-jobs/{site.scene.script}/samples/")
    assert visit.complaints == []


def test_another_curve_is_chosen_and_followed(site: Site, visit: Visit, page: Page) -> None:
    panel = page.locator("[data-curve]")
    expect(panel.locator("[data-curve-title]")).to_have_text("Train loss")
    expect(panel.locator("[data-legend-eval]")).to_be_visible()
    panel.locator("[data-curve-choice]").select_option(label="Accuracy")
    expect(panel.locator("[data-curve-title]")).to_have_text("Accuracy")
    expect(panel.locator("[data-legend-eval]")).to_be_hidden()
    report(site, "metrics", {"steps": [170], "values": {"acc": [0.9987], "train_loss": [0.04]}})
    expect(panel.locator("[data-curve-summary]")).to_contain_text("to 0.9987 over 170 steps")
    expect(page.locator('[data-figure="loss"]')).to_have_text("0.04000")
    assert visit.complaints == []


def test_the_page_writes_values_as_the_server_does(visit: Visit) -> None:
    page = visit.open("/login")  # any page has them
    tried = [
        0,
        -0.0,
        1e-300,
        2.04e-4,
        -2.04e-4,
        9.996e-4,
        0.001,
        0.00123456,
        0.012345,
        0.03125,
        0.99996,
        1.0625,
        -1.0625,
        2.5,
    ]
    tried += [99.996, 100.25, 12345.678, 999_999.94, 1_125_000, 1e21, 1e300]
    written = page.evaluate("values => values.map(window.trainyard.format.value)", tried)
    assert written == [value(one) for one in tried]
    assert written[3] == "2.04e-4" and written[13] == "2.500"


def test_switching_a_rule_off_takes_its_curves_away_at_once(site: Site, visit: Visit, page: Page) -> None:
    choice = page.locator("[data-curve-choice]")
    switch = page.get_by_role("switch", name="Lines such as: loss: 0.5 | lr: 1e-3")
    assert "Learning rate" in choice.inner_text()
    switch.click()
    expect(switch).to_have_attribute("aria-checked", "false")
    expect(choice).not_to_contain_text("Learning rate")
    page.reload()
    expect(switch).to_have_attribute("aria-checked", "false")  # it is the job's, not the page's
    expect(choice).not_to_contain_text("Learning rate")
    switch.click()
    expect(switch).to_have_attribute("aria-checked", "true")
    expect(choice).to_contain_text("Learning rate")
    assert visit.complaints == []


@pytest.fixture
def unread(site: Site) -> int:
    """A script that runs and has printed nothing that could be read."""
    with yard(site):
        known = db.session.get_one(TrainingJob, site.scene.script)
        alice = db.session.get_one(User, known.user_id)
        order = Order(
            name="quiet", recipe="script", base_model="none", place={"agent": known.agent_id}, local_path=known.local_path,
            parameters={"entry": "train.py"},
        )  # fmt: skip
        job = training_jobs.create(alice, order).id
        training_jobs.claim(job, 1, "test")
        training_jobs.record(job, 1, "event", 1, [{"kind": "stage", "stage": "train", "message": "Training."}])
    return job


def test_the_page_says_how_it_is_in_words_that_agree(site: Site, visit: Visit, unread: int) -> None:
    visit.log_in()
    page = visit.open(f"/training-jobs/{unread}")
    live, sentence = page.locator("[data-connection]"), page.locator("[data-sentence]")
    expect(live).to_have_text("Live")
    with yard(site):  # the word of a runner comes after the state it leads to
        training_jobs.record(
            unread, 1, "event", 2, [{"kind": "stage", "stage": "train", "total_steps": 9, "message": "Training."}]
        )
    expect(page.locator('[data-figure="total"]')).to_have_text("of 9")
    expect(sentence).to_have_text("Your script runs on workstation.")
    with yard(site), transaction():
        job = training_jobs.queries.locked(unread)
        job.disconnected_since = now() - timedelta(seconds=15)
        training_jobs.events.status(job)
    expect(page.get_by_text("It was last heard of")).to_be_visible()
    expect(sentence).to_have_text("workstation is away. What it does meanwhile appears here when it is back.")
    expect(page.locator(".note time")).to_have_text(re.compile("^(1[89]|2[0-3]) s ago$"))  # it goes on counting
    expect(live).to_be_hidden()
    with yard(site):
        training_jobs.record(unread, 1, "metrics", 1, [{"steps": [1], "values": {}}])
    expect(live).to_be_visible()
    upload = {"kind": "stage", "stage": "upload", "message": "Saving what it made."}
    with yard(site):
        training_jobs.record(unread, 1, "event", 3, [upload, {"kind": "stage", "stage": "done", "message": "Done."}])
    expect(page.locator(".now-line .state").first).to_have_text("Uploading")
    expect(sentence).to_have_text("The files are on their way to the server.")
    expect(page.locator(".curve-empty")).to_contain_text("The curve begins with")
    expect(page.locator("[data-log-empty]")).to_have_text("The log begins when the training starts.")
    with yard(site):
        training_jobs.end(unread, 1, Final("completed"))
    expect(page.locator(".curve-empty")).to_contain_text("no numbers that were understood")
    expect(page.locator("[data-log-empty]")).to_have_text("Nothing was written.")
    assert visit.complaints == []


def test_memory_of_now_becomes_the_most_of_it_and_the_table_has_no_empty_column(
    site: Site, visit: Visit, unread: int
) -> None:
    with yard(site):
        readings = [
            {"kind": "system", "seconds": 5.0 * i, "memory_bytes": used} for i, used in enumerate((421e6, 26e6))
        ]
        training_jobs.record(unread, 1, "event", 2, readings)
        training_jobs.record(unread, 1, "metrics", 1, [{"steps": [1, 2], "values": {"loss": [2.0, 1.5]}}])
    visit.log_in()
    page = visit.open(f"/training-jobs/{unread}")
    memory = page.locator("dl.figures div", has=page.locator('[data-figure="memory"]'))
    expect(memory).to_have_text("Memory26 MB")
    page.get_by_text("Show as table").click()
    table = page.locator("[data-curve-table]")
    expect(table.locator("th:visible")).to_have_count(2)
    expect(table.locator("tbody tr").first.locator("td")).to_have_count(2)
    with yard(site):
        training_jobs.record(unread, 1, "metrics", 2, [{"steps": [2, 3], "values": {"eval_loss": [1.6, 1.4]}}])
        training_jobs.record(unread, 1, "metrics", 3, [{"steps": [3], "values": {"train_loss": [9.0]}}])
    expect(table.locator("th:visible")).to_have_count(3)
    expect(page.locator('[data-figure="loss"]')).to_have_text("1.500")
    with yard(site):
        training_jobs.end(unread, 1, Final("completed"))
    expect(memory).to_have_text("Memory, at most421 MB")
    expect(page.locator('[data-figure="loss"]')).to_have_text("1.500")
    assert visit.complaints == []


def test_without_javascript_the_page_says_what_ran_and_the_switch_works(site: Site, chromium: Browser) -> None:
    context = chromium.new_context(java_script_enabled=False)
    visit = Visit(site, context)
    page = visit.log_in()
    visit.open(f"/training-jobs/{site.scene.script}")
    main = page.locator("main")
    for words in (
        "python train.py --epochs 3 --lr 0.001",
        "/home/alice/models/mnist",
        "HF_TOKEN",
        "Train loss",
        "Val loss",
    ):
        expect(main).to_contain_text(words)
    for words in ("Base model", "none"):
        expect(page.locator("[data-region=aside]")).not_to_contain_text(words)
    for state in ("false", "true"):
        page.get_by_role("switch").first.click()
        expect(page.get_by_role("switch").first).to_have_attribute("aria-checked", state)
    context.close()


def test_where_the_log_lacks_records_the_open_page_says_so_as_the_loaded_one_does(
    site: Site, visit: Visit, unread: int
) -> None:
    visit.log_in()
    page = visit.open(f"/training-jobs/{unread}")
    expect(page.locator("[data-connection]")).to_have_text("Live")
    with yard(site):
        lost = [{"text": ""} for _ in range(134)]
        training_jobs.record(unread, 1, "log", 1, [{"text": "before\n"}, *lost, {"text": "after\n"}])
    lines = page.locator("[data-log-lines]")
    expect(lines).to_have_text(re.compile(r"^before\n\(134 log records are missing here: [^\n]*\)\nafter\n$"))
    live = lines.text_content()
    with yard(site):
        training_jobs.end(unread, 1, Final("failed", "member_machine", "The machine's disk was full.", "Make room."))
    expect(page.locator("[data-region=aside]")).to_contain_text("Incomplete 134 records missing")
    page.reload()
    assert lines.text_content() == live
    assert visit.complaints == []


# A connection in the page's hands: `streams` are those it has opened, and they say what the test lets them say.
STREAMS = """
window.streams = [];
window.EventSource = class extends EventTarget {
  static CONNECTING = 0; static OPEN = 1; static CLOSED = 2;
  constructor(url) {
    super();
    Object.assign(this, { url, readyState: 1 });
    window.streams.push(this);
    setTimeout(() => this.onopen?.(), 1);
  }
  close() { this.readyState = 2; }
};
window.tell = (name, data) => window.streams.at(-1).dispatchEvent(new MessageEvent(name, { data: JSON.stringify(data) }));
"""


def opened(page: Page) -> int:
    """How many connections the page has asked for so far."""
    return int(page.evaluate("() => streams.length"))


@pytest.fixture
def told(site: Site, visit: Visit, unread: int) -> Page:
    """The page of a job whose connection says what the test lets it say, by a clock that the test moves."""
    visit.log_in()
    visit.page.clock.install()
    visit.page.add_init_script(STREAMS)
    page = visit.open(f"/training-jobs/{unread}")
    page.clock.run_for(100)
    expect(page.locator("[data-connection]")).to_have_text("Live")
    assert opened(page) == 1
    return page


def test_the_page_looks_after_its_connection(told: Page) -> None:
    """A quiet one stays, one that died without a word or was refused is asked for again, and after a backup was put back
    the page loads itself again, once."""
    live = told.locator("[data-connection]")
    for _ in range(10):
        told.clock.run_for(15_000)
        told.evaluate("() => tell('alive', {})")
    assert opened(told) == 1
    told.clock.run_for(80_000)
    assert opened(told) == 2
    expect(live).to_have_text("Live")
    told.evaluate("() => { const one = streams.at(-1); one.readyState = 2; one.onerror(); }")
    expect(live).to_have_text("Reconnecting")
    told.clock.run_for(2_000)
    assert opened(told) == 3
    expect(live).to_have_text("Live")
    with told.expect_navigation():
        told.evaluate("() => tell('reset', {})")
    told.clock.run_for(30_000)
    expect(live).to_have_text("Live")
    assert opened(told) == 1


def test_a_page_that_draws_no_frames_keeps_no_more_than_its_last_lines(told: Page) -> None:
    told.evaluate("() => { window.requestAnimationFrame = () => 1; }")
    told.evaluate("() => { for (let i = 1; i <= 9000; i++) tell('log', { text: `line ${i} ${'x'.repeat(500)}\\n` }); }")
    shown = told.locator("[data-log-lines]").text_content() or ""
    numbers = [int(number) for number in re.findall(r"^line (\d+) ", shown, re.MULTILINE)]
    assert numbers[-1] > 6000 and len(numbers) < 6000 and shown.startswith("… earlier lines are in the download")
