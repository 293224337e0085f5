// The job page: follows the job's events and keeps every figure true. What has words or buttons is drawn by the server and
// swapped in when the state changes; numbers, curve and log are written here.
(() => {
  const yard = window.trainyard;
  const { format } = yard;
  const job = JSON.parse(document.getElementById("job-data").textContent);
  const FINAL = ["completed", "failed", "cancelled"];
  const curve = yard.curve(document.querySelector("[data-curve]"), job.series || {});
  const log = yard.log(document.querySelector("[data-log]"));
  const machine = yard.machine(document.querySelector("[data-machine]"));
  const samplesPanel = document.querySelector("[data-samples]");
  const samples = samplesPanel && yard.samples(samplesPanel);
  let shown = stateOf(job);
  let left = job.eta_seconds ? { seconds: job.eta_seconds, at: Date.now() } : null;
  let connection = "live";
  let countsTokens = Boolean(job.series?.tokens_per_second?.length);

  function stateOf(given) {
    return [
      given.status,
      given.stage,
      given.attempt,
      given.disconnected_since,
      given.model_version_id,
      given.stop_requested,
      given.error?.message,
      given.credits?.charged,
    ].join("|");
  }

  // --- Figures ---
  function figure(name, text, unit) {
    const element = document.querySelector(`[data-figure="${name}"]`);
    if (!element) return;
    element.textContent = text;
    if (unit) element.append(" ", Object.assign(document.createElement("small"), { textContent: unit }));
  }
  function progress(given) {
    const bar = document.querySelector("[data-progress]");
    if (given.stage === "train" && bar) {
      bar.value = given.progress || 0;
      document.querySelector("[data-percent]").textContent = given.progress ? `${Math.round(given.progress)} %` : "";
    }
    document.title =
      given.status === "training" && given.progress
        ? `${Math.round(given.progress)} % · ${job.name} · Trainyard`
        : `${job.name} · Trainyard`;
  }
  function tick() {
    if (!left) return;
    figure("eta", format.duration(Math.max(1, left.seconds - (Date.now() - left.at) / 1000)));
  }
  function setLeft(given) {
    const running = given.status === "training" && !given.disconnected_since;
    left = running && given.eta_seconds ? { seconds: given.eta_seconds, at: Date.now() } : null;
    if (left) tick();
    else figure("eta", "–");
  }

  // --- Regions drawn by the server ---
  let refreshing = null;
  let again = false;
  async function refresh() {
    if (refreshing) {
      again = true;
      return;
    }
    refreshing = yard.refresh().then(
      (fresh) => {
        markConnection();
        hideCurves(JSON.parse(fresh.getElementById("job-data").textContent));
      },
      () => setTimeout(refresh, 3000),
    );
    await refreshing;
    refreshing = null;
    if (again) {
      again = false;
      refresh();
    }
  }
  // Facts may come every few seconds; the page is drawn again for them every ten at most.
  let factsAt = 0;
  let factsTimer = 0;
  function refreshSoon() {
    if (factsTimer) return;
    factsTimer = setTimeout(
      () => {
        factsTimer = 0;
        factsAt = Date.now();
        refresh();
      },
      Math.max(0, factsAt + 10_000 - Date.now()),
    );
  }
  function markConnection() {
    const mark = document.querySelector("[data-connection]");
    if (!mark) return;
    mark.hidden = connection === "ended" || (connection === "live" && "away" in mark.dataset); // nothing comes live then
    mark.classList.toggle("wait", connection === "reconnecting");
    mark.classList.toggle("go", connection === "live");
    mark.replaceChildren(
      connection === "live" ? Object.assign(document.createElement("i"), { className: "pulse" }) : yard.icon("refresh"),
      connection === "live" ? "Live" : "Reconnecting",
    );
  }

  // --- How the curves were read: rules that are switched off hide what they alone have given ---
  function hideCurves({ curves = [], curves_off: off = [] }) {
    const kept = new Set(curves.filter(({ rule }) => !off.includes(rule)).flatMap(({ names }) => names));
    const given = curves.filter(({ rule }) => off.includes(rule)).flatMap(({ names }) => names);
    curve.hide(given.filter((name) => !kept.has(name)));
  }
  document.addEventListener("beforesend", (event) => {
    const form = event.target.closest("form[data-curves]");
    if (!form) return;
    event.preventDefault();
    fetch(form.dataset.curves, {
      method: "POST",
      body: new URLSearchParams(new FormData(form)),
      headers: { Accept: "application/json" },
      credentials: "same-origin",
    }).then(
      (answer) => (answer.ok ? refresh() : yard.toast("The switch was not stored. Try it again.", "danger")),
      () => yard.toast("The server does not answer. Try it again.", "danger"),
    );
  });
  hideCurves(job);

  // --- Events ---
  const handlers = {
    log: (data) => log.append(data.text),
    metrics(data) {
      for (const [name, values] of Object.entries(data.values)) {
        curve.add(name, data.steps, values);
        const newest = values.findLast(Number.isFinite);
        if (newest === undefined) continue;
        if (name === curve.main() && name.includes("loss")) figure("loss", format.value(newest));
        if (name === "tokens_per_second") {
          countsTokens = true;
          figure("speed", format.number(Math.round(newest)), "tokens/s");
        }
        if (name === "memory_bytes") figure("memory", format.bytes(newest));
      }
      if (data.steps.length) figure("step", format.number(data.steps[data.steps.length - 1]));
    },
    system(data) {
      if (data.memory_bytes) figure("memory", format.bytes(data.memory_bytes));
      machine.system(data);
    },
    sample(data) {
      samples?.add(data);
    },
    facts() {
      refreshSoon();
    },
    stage(data) {
      const sentence = document.querySelector("[data-sentence]");
      // What it trains on and how it ended, the server says; the runner tells what it gets ready and what it keeps.
      if (data.message && ["prepare", "upload"].includes(data.stage) && sentence) sentence.textContent = data.message;
      if (data.total_steps) figure("total", `of ${format.number(data.total_steps)}`);
    },
    status(data) {
      if (data.step) figure("step", format.number(data.step));
      if (data.total_steps) figure("total", `of ${format.number(data.total_steps)}`);
      if (data.steps_per_second && !countsTokens) figure("speed", data.steps_per_second.toFixed(1), `${data.unit}/s`);
      progress(data);
      setLeft(data);
      const state = stateOf(data);
      if (state === shown) return;
      const differs = (place) => state.split("|")[place] !== shown.split("|")[place];
      if (differs(0) || differs(2)) machine.again(); // another state or attempt: when it began is known now
      if (differs(0)) yard.say(`${job.name}: ${data.status}`);
      shown = state;
      refresh();
    },
    end(data) {
      if (FINAL.includes(data.status)) stream.end();
      refresh();
    },
  };
  const stream = FINAL.includes(job.status)
    ? null
    : yard.follow(`/api/training-jobs/${job.id}/events`, job.last_event, handlers, (state) => {
        const was = connection;
        connection = state;
        markConnection();
        if (was === "reconnecting" && state === "live") refresh();
      });
  setInterval(tick, 1000);
})();
