// The form for a script of one's own: what does not belong to the choice is put away, and the price follows the minutes.
(() => {
  const form = document.querySelector("form[data-script-form]");
  if (!form) return;
  const { format } = window.trainyard;
  const value = (name) => new FormData(form).get(name) || "";
  let named = Boolean(form.elements.name.value);

  function adapt() {
    form.querySelectorAll("[data-when]").forEach((part) => {
      const [name, wanted] = part.dataset.when.split("=");
      const away = value(name) !== wanted || (name === "dataset_id" && value("source") !== "dataset");
      part.hidden = away;
      part.querySelectorAll("[name^='value-']").forEach((input) => {
        input.disabled = away;
      });
    });
    form.querySelectorAll("[name=place]").forEach((place) => {
      place.dataset.never ??= String(place.disabled);
      const reason =
        place.dataset.source === value("source")
          ? ""
          : place.value === "server"
            ? "A script on your machine runs there. Upload it to run it here."
            : "An uploaded script runs on the server. Your machine runs only what lies in its own folders.";
      place.disabled = place.dataset.never === "true" || Boolean(reason);
      if (place.disabled) place.checked = false;
      const blocked = place.closest(".choice").querySelector("[data-blocked]");
      blocked.hidden = !reason || place.dataset.never === "true";
      blocked.textContent = reason;
    });
    if (!value("place")) {
      const open = form.querySelector("[name=place]:not(:disabled)");
      if (open) open.checked = true;
    }
    suggestName();
    price();
  }
  function suggestName() {
    if (named) return;
    const chosen = form.querySelector("[name=dataset_id]:checked")?.closest(".choice").querySelector("strong");
    const folder = value("local_path").replace(/[\\/]+$/, "").split(/[\\/]/).pop();
    form.elements.name.value = (value("source") === "local" ? folder : chosen?.textContent.trim() || "").slice(0, 120);
  }
  function price() {
    const headline = form.querySelector("[data-quote-price]");
    const minutes = Number(value("max_minutes"));
    if (value("place").startsWith("agent:")) headline.textContent = "Free: your own machine does the work";
    else if (value("place") === "server" && minutes > 0)
      headline.textContent = `At most ${format.credits(minutes * Number(form.elements.max_minutes.dataset.price))}; what is not used returns`;
  }

  form.elements.name.addEventListener("input", () => {
    named = true;
  });
  form.addEventListener("input", (event) => {
    if (event.target.name !== "name") suggestName();
    price();
  });
  form.addEventListener("change", adapt);
  adapt();
})();
