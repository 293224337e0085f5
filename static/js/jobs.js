// Keeps lists of open jobs fresh: figures by the JSON list, and the whole region once a state has changed.
(() => {
  const { format, refresh } = window.trainyard;
  const region = document.querySelector('[data-region="jobs"]');
  if (!region) return;
  const set = (element, text) => {
    if (element && element.textContent !== text) element.textContent = text;
  };

  function show(row, job) {
    const steps = job.total_steps
      ? `step ${format.number(job.step)} of ${format.number(job.total_steps)}`
      : `step ${format.number(job.step)}`;
    set(row.querySelector("[data-job-step]"), job.step ? steps : "not started");
    set(row.querySelector("[data-job-eta]"), job.eta_seconds ? `· ${format.duration(job.eta_seconds)} left` : "");
    set(row.querySelector("[data-job-loss]"), format.value(job.loss));
    const bar = row.querySelector("progress");
    if (bar) bar.value = job.progress || 0;
  }

  async function look() {
    const rows = [...region.querySelectorAll("[data-job]")];
    if (document.hidden) return;
    const answer = await fetch("/api/training-jobs?limit=50", { headers: { Accept: "application/json" } });
    if (!answer.ok) return;
    const jobs = new Map((await answer.json()).map((job) => [String(job.id), job]));
    let changed = false;
    for (const row of rows) {
      const job = jobs.get(row.dataset.job);
      if (!job) continue;
      if (row.dataset.state !== `${job.status} ${job.disconnected_since || ""}`) changed = true;
      else show(row, job);
    }
    if (changed) await refresh();
  }
  setInterval(
    () =>
      look().catch(() => {
        /* the next look comes soon */
      }),
    4000,
  );
})();
