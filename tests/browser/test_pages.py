"""Every page as people meet it: complete, accessible, quiet in the console, light and dark, phone and desktop."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from app import create_app
from models.base import db
from models.training_jobs import TrainingJob
from tests.browser import scene
from tests.browser.conftest import Site, Visit

JOB = re.compile(r"/training-jobs/\d+$")
AT_THE_END = """() => {
  scrollTo({top: document.documentElement.scrollHeight, behavior: "instant"});
  const seen = part => { const one = document.querySelector(part); return one?.getClientRects()[0] };
  const [head, foot, bar] = [seen(".top"), seen(".foot"), seen(".tabbar")];
  scrollTo({top: 0, behavior: "instant"});
  return {away: head && head.top < 0, covered: foot && Math.round(foot.bottom - (bar ? bar.top : innerHeight))};
}"""
SETTLED = """async () => {
  await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
  await Promise.allSettled(document.getAnimations().filter(one => one instanceof CSSTransition).map(one => one.finished));
}"""
AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text()
PUBLIC = [
    "/", "/pricing", "/signup", "/login", "/password/forgot", "/nothing-here", "/guides", "/guides/setup", "/guides/training",
    "/guides/scripts", "/guides/troubleshooting", "/guides/what-the-agent-may-do",
]  # fmt: skip
PRIVATE = [
    "/dashboard", "/account", "/datasets", "/datasets/new", "/datasets/{dataset}", "/ai-training", "/ai-training?tab=models",
    "/training-jobs/new", "/training-jobs/new/script", "/training-jobs/new/script?like={script}", "/datasets/{uploaded}", "/training-jobs/{running}", "/training-jobs/{completed}", "/training-jobs/{failed}",
    "/training-jobs/{paused}", "/training-jobs/{away}", "/training-jobs/{script}", "/models/{model}", "/agents",
    "/pricing", "/pricing?interval=year", "/billing", "/billing?interval=year", "/billing/history", "/billing/usage",
]  # fmt: skip


def paths(site: Site, templates: list[str]) -> list[str]:
    return [template.format(**vars(site.scene)) for template in templates]


def faults_of(visit: Visit, path: str) -> list[str]:
    """What is wrong with a page: axe-core's violations, a line too wide for the window, complaints of the console."""
    visit.open(path)
    return faults_now(visit, path)


def faults_now(visit: Visit, path: str) -> list[str]:
    """The same of the page that is open. Colours are looked at in the other scheme as well; all else is the same there."""
    page = visit.page
    page.wait_for_timeout(250)
    page.evaluate(AXE)
    faults = violations(page, path)
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    if wide > 0:
        faults.append(f"{path}: {wide} px wider than the window")
    end = page.evaluate(AT_THE_END)
    if end["away"] or (end["covered"] or 0) > 0:
        faults.append(f"{path}: scrolled to its end: {end}")
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    page.emulate_media(color_scheme="light" if dark else "dark")
    page.evaluate(SETTLED)
    faults += violations(page, f"{path} ({'light' if dark else 'dark'})", "color-contrast")
    page.emulate_media(color_scheme="dark" if dark else "light")
    missing = [text for text in visit.complaints if "404" not in text or path != "/nothing-here"]
    visit.complaints.clear()
    return faults + [f"{path}: console: {text}" for text in missing]


def violations(page: Page, path: str, *rules: str) -> list[str]:
    """What axe-core finds wrong on the page that is open, by all its rules or by those named."""
    options = {"resultTypes": ["violations"], **({"runOnly": rules} if rules else {})}
    found = page.evaluate("async options => (await axe.run(document, options)).violations", options)
    return [
        f"{path}: {one['id']}: {one['nodes'][0]['html'][:120]} {one['nodes'][0].get('failureSummary', '')[:200]}"
        for one in found
    ]


@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 1440)])
def test_no_page_has_a_fault(site: Site, chromium: Browser, scheme: str, width: int) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    visit = Visit(site, context)
    faults = [fault for path in paths(site, PUBLIC) for fault in faults_of(visit, path)]
    visit.log_in(scene.NEWCOMER)
    empty = [
        "/dashboard",
        "/datasets",
        "/ai-training",
        "/ai-training?tab=models",
        "/agents",
        "/training-jobs/new",
        "/training-jobs/new/script",
    ]
    empty += ["/billing", "/billing/usage"]
    faults += [fault for path in empty for fault in faults_of(visit, path)]
    context.clear_cookies()
    visit.log_in()
    faults += [fault for path in paths(site, PRIVATE) for fault in faults_of(visit, path)]
    context.close()
    assert faults == []


def test_without_javascript_the_job_page_is_complete(site: Site, chromium: Browser) -> None:
    context = chromium.new_context(java_script_enabled=False)
    visit = Visit(site, context)
    page = visit.log_in()
    visit.open(f"/training-jobs/{site.scene.completed}")
    for text in ("describe-to-code", "model.safetensors", "Step 300 of 300"):
        expect(page.locator("main")).to_contain_text(text)
    context.close()


def test_signing_up_leads_to_a_dashboard_that_says_what_to_do(visit: Visit) -> None:
    page = visit.open("/signup")
    page.fill("input[name=email]", "new@example.com")
    page.fill("input[name=username]", "new")
    page.fill("input[name=password]", "short")
    page.click("main button[type=submit]")
    if page.url.endswith("/signup"):
        page.fill("input[name=password]", scene.PASSWORD)
        page.click("main button[type=submit]")
    page.wait_for_url("**/dashboard")
    expect(page.locator("main")).to_contain_text("Bring a data file")
    expect(page.locator("main")).to_contain_text("20")


def test_a_file_with_unknown_columns_is_mapped_on_the_page(visit: Visit, tmp_path: Path) -> None:
    page = visit.log_in()
    file = tmp_path / "questions.jsonl"
    file.write_bytes(scene._questions())
    visit.open("/datasets/new")
    page.set_input_files("input[type=file]", file)
    page.fill("input[name=name]", "mapped on the page")
    page.click("main form button[type=submit]")
    page.wait_for_selector("[name=map_prompt]")
    assert page.input_value("[name=map_prompt]") == "question"  # a guess from the names of the columns
    assert page.input_value("[name=map_completion]") == "answer"
    page.reload()  # the page has an address of its own
    page.click("main form button[type=submit]")
    page.wait_for_url("**/datasets/*")
    expect(page.locator("main")).to_contain_text("88")
    expect(page.locator("main")).to_contain_text("How much is 2 times 2?")
    assert visit.complaints == []


def test_the_wizard_leads_to_a_job_page(visit: Visit) -> None:
    page = visit.log_in()
    visit.open("/training-jobs/new")
    for _ in range(3):
        page.locator("[data-next]:visible").click()
    page.fill("input[name=name]", "from-the-wizard")
    page.click("label:has(input[name=place][value=server])")
    expect(page.locator("input[name=place][value=server]")).to_be_checked()
    expect(page.locator("[data-quote-words]")).to_contain_text(
        re.compile(r"Set aside: \d+ credits?; what is not used returns")
    )
    page.locator("button[type=submit]:visible", has_text="Start").click()
    page.wait_for_url("**/training-jobs/*")
    expect(page.locator("main")).to_contain_text("from-the-wizard")
    assert visit.complaints == []


def test_an_uploaded_script_is_ordered_with_its_own_settings(visit: Visit) -> None:
    with create_app(visit.site.settings).app_context():
        scene.worker_is_there()
        db.session.remove()
    page = visit.log_in()
    visit.open("/training-jobs/new/script")
    page.get_by_label("Learning rate").fill("0.5")
    page.fill("input[name=arguments]", '--note "not closed')
    page.click("main button[type=submit]")
    expect(page.locator("#arguments-wrong")).to_contain_text("A quotation mark is not closed.")
    assert page.get_by_label("Learning rate").input_value() == "0.5"  # what was typed is kept
    page.fill("input[name=arguments]", "")
    page.get_by_label("Size").select_option("large")
    page.get_by_text("Half precision").click()
    page.fill("input[name=max_minutes]", "15")
    expect(page.locator("[data-quote-price]")).to_contain_text("At most 15 credits")
    page.click("main button[type=submit]")
    page.wait_for_url(JOB)
    expect(page.locator("main")).to_contain_text("tiny-gpt")
    with create_app(visit.site.settings).app_context():
        job = db.session.get_one(TrainingJob, int(page.url.rsplit("/", 1)[1]))
        assert job.parameters["values"] == {"size": "large", "lr": 0.5, "amp": True}
        assert (job.recipe, job.quoted, job.parameters["max_minutes"]) == ("script", 15, 15)
        db.session.remove()


def test_a_script_on_a_machine_is_ordered_by_its_folder(visit: Visit) -> None:
    page = visit.log_in()
    visit.open("/training-jobs/new/script")
    page.get_by_text("On my machine", exact=True).click()
    expect(page.locator("input[name=place][value=server]")).to_be_disabled()
    expect(page.locator("[data-quote]")).to_have_text("Free: your own machine does the work", use_inner_text=True)
    expect(page.locator("input[name=max_minutes]")).to_be_hidden()
    page.fill("input[name=local_path]", "~/models/nano")
    expect(page.locator("input[name=name]")).to_have_value("nano")
    page.fill("input[name=arguments]", '--name "two words" --epochs 3')
    page.click("main button[type=submit]")
    page.wait_for_url(JOB)
    with create_app(visit.site.settings).app_context():
        job = db.session.get_one(TrainingJob, int(page.url.rsplit("/", 1)[1]))
        assert (job.local_path, job.parameters["arguments"]) == (
            "~/models/nano",
            ["--name", "two words", "--epochs", "3"],
        )
        db.session.remove()


def test_a_name_that_was_mistyped_is_put_right_in_a_form_like_the_first(visit: Visit) -> None:
    page = visit.log_in()
    visit.open(f"/training-jobs/new/script?like={visit.site.scene.script}")
    assert page.input_value("input[name=local_path]") == "/home/alice/models/mnist"
    assert page.input_value("input[name=name]") == "mnist-script"
    expect(page.locator("input[name=place]:checked")).to_have_value(re.compile("agent:"))
    page.fill("input[name=entry]", "fit.py")
    page.get_by_text("Files to keep, checkpoints, environment").click()
    page.fill("input[name=outputs]", "out/*.pt")
    page.click("main button[type=submit]")
    page.wait_for_url(JOB)
    first = int(page.url.rsplit("/", 1)[1])
    visit.open(f"/training-jobs/new/script?like={first}")
    assert page.input_value("input[name=entry]") == "fit.py"
    expect(page.locator("input[name=outputs]")).to_be_visible()  # what was given is not folded away
    page.fill("input[name=local_path]", "")
    page.click("main button[type=submit]")
    expect(page.locator("#local_path-wrong")).to_have_text("Name the folder of the script on your machine.")
    with create_app(visit.site.settings).app_context():
        job = db.session.get_one(TrainingJob, first)
        assert (job.parameters["entry"], job.parameters["arguments"]) == ("fit.py", ["--epochs", "3"])
        db.session.remove()


def test_a_key_is_shown_once_with_the_command_that_uses_it(visit: Visit) -> None:
    page = visit.log_in()
    visit.open("/agents")
    page.fill("form[action='/keys'] input[name=name]", "den")
    page.click("form[action='/keys'] button[type=submit]")
    expect(page.locator("main")).to_contain_text("ty_")
    expect(page.locator("main")).to_contain_text("train_agent.py")
    visit.open("/agents")
    assert "--api-key ty_" not in page.locator("main").inner_text()
