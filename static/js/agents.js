// The agents page: looks at the machines every few seconds and has the server draw the list again when one changed.
(() => {
  const { format, refresh } = window.trainyard;
  const region = document.querySelector('[data-region="agents"]');
  const python = (value) => (value ? "True" : "False");
  let shown = region.dataset.agents;

  async function look() {
    if (document.hidden) return;
    const answer = await fetch("/api/agents", { headers: { Accept: "application/json" } });
    if (!answer.ok) return;
    const agents = await answer.json();
    const now = agents.map((agent) => `${agent.id}:${agent.status}:${python(agent.ready)};`).join("");
    if (now !== shown) {
      await refresh(region.dataset.source);
      shown = now;
      return;
    }
    for (const agent of agents) {
      const disk = document.querySelector(`[data-agent="${agent.id}"] [data-agent-disk]`);
      if (disk && agent.machine?.disk_free_bytes) disk.textContent = format.bytes(agent.machine.disk_free_bytes);
    }
  }
  setInterval(
    () =>
      look().catch(() => {
        /* the next look comes soon */
      }),
    3000,
  );
})();
