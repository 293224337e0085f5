// Credits on every page: the figure in the head follows what is spent, a banner says when they run low, and what costs
// credits asks first once there are none. On the pages of plans: what a change would cost, before anybody confirms it.
(() => {
  const yard = window.trainyard;
  const { format } = yard;
  const OFTEN = 15000;
  const pill = document.querySelector("[data-credits]");
  const banner = document.querySelector("[data-low]");
  const lowAt = Number(pill.dataset.lowAt);
  let known = { left: Number(pill.dataset.credits), held: Number(pill.dataset.held) };
  let low = pill.classList.contains("low");

  // --- What is left, kept true ---
  function show(left, held) {
    if (left === known.left && held === known.held) return;
    const fell = left + held < known.left + known.held;
    known = { left, held };
    pill.querySelector("[data-credits-left]").textContent = format.number(left);
    const words = `${left ? format.credits(left) : "No credits"} left.`;
    const was = low;
    low = left + held <= lowAt && (low || fell);
    pill.classList.toggle("low", low);
    if (banner) {
      banner.hidden = !low;
      banner.querySelector("[data-low-words]").textContent = words;
    }
    if (low && !was) yard.say(words);
    if (document.querySelector('[data-region="credits"]')) yard.refresh().catch(() => {});
  }
  async function look() {
    const answer = await fetch("/api/subscription", { headers: { Accept: "application/json" } });
    if (!answer.ok) return;
    const subscription = await answer.json();
    show(subscription.credits_remaining, subscription.credits_held);
  }
  // What cannot be asked now is asked again with the next look.
  const lookQuietly = () => (document.hidden ? null : look().catch(() => {}));
  setInterval(lookQuietly, OFTEN);
  document.addEventListener("visibilitychange", lookQuietly);
  // The job page draws itself anew when its job has moved on; asking then would follow itself where credits are drawn.
  if (!document.querySelector('[data-region="credits"]')) document.addEventListener("regionsrefreshed", lookQuietly);
  if (document.querySelector("[data-look-again]"))
    for (const delay of [1500, 5000]) setTimeout(() => yard.refresh().catch(() => {}), delay);

  // --- Nothing left: what costs credits asks first, everything else goes on ---
  const nothing = document.getElementById("no-credits");
  const ORDER = /\/training-jobs\/(\d+)\/(resume|retry)$/;
  let allowed = null;
  async function costs(form) {
    if (form.matches("[data-wizard]")) return new FormData(form).get("place") === "server";
    const [, id] = ORDER.exec(form.getAttribute("action"));
    const answer = await fetch(`/api/training-jobs/${id}`, { headers: { Accept: "application/json" } });
    return answer.ok && (await answer.json()).place === "server";
  }
  async function decide(form) {
    let refuse = false;
    try {
      await look();
      refuse = !known.left && !known.held && (await costs(form));
    } catch {
      /* the server decides */
    }
    if (refuse) {
      nothing.showModal();
      return;
    }
    const current = form.isConnected ? form : document.querySelector(`form[action="${form.getAttribute("action")}"]`);
    if (!current) return;
    allowed = current;
    current.requestSubmit();
  }
  document.addEventListener("beforesend", (event) => {
    const form = event.target;
    const mayCost = form.matches("[data-wizard]") || ORDER.test(form.getAttribute("action") || "");
    if (form === allowed || known.left || known.held || !mayCost) {
      allowed = null;
      return;
    }
    event.preventDefault();
    decide(form);
  });

  const paidBy = (card) =>
    card ? `, with your ${card.brand[0].toUpperCase()}${card.brand.slice(1)} ending in ${card.last4}` : ". You have no card on file and are asked for one";

  // --- What a change of plan costs and brings ---
  // Answers the words of the question; null when the change is refused, which a toast then says.
  yard.preview = async (form) => {
    const { plan, present, cost, confirm } = form.dataset;
    const wanted = new FormData(form);
    try {
      const answer = await fetch(form.dataset.preview, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ tier_id: Number(wanted.get("tier_id")), interval: wanted.get("interval") }),
      });
      const body = await answer.json();
      if (!answer.ok) {
        yard.toast(body.error.message, "danger");
        return null;
      }
      const then = ["After that", cost || "free"];
      if (body.scheduled_for)
        return {
          text: `Nothing is charged now. ${present} stays until ${format.day(body.scheduled_for)}; then ${plan} begins. Until then you can take it back.`,
          facts: [["To pay now", format.money(0)], then],
        };
      return {
        text: `It begins as soon as the payment has worked${paidBy(body.card)}.${body.restarts ? ` What is left of this month's ${present} credits ends; packs stay yours.` : ""}`,
        facts: [["To pay now", format.money(body.amount_cents)], ["Credits at once", format.number(body.credits)], then],
      };
    } catch {
      return { text: confirm };
    }
  };
})();
