// The form for a script of one's own: what does not belong to the choice is put away, and the price follows the minutes.
(() => {
  const form = document.querySelector("form[data-script-form]");
  if (!form) return;
  const { format, blockPlaces } = window.trainyard;
  const value = (name) => new FormData(form).get(name) || "";
  let named = Boolean(form.elements.name.value);

  function adapt() {
    blockPlaces(form, (place) => {
      if (place.dataset.source === value("source")) return "";
      return place.value === "server"
        ? "A script on your machine runs there. Upload it to run it here."
        : "An uploaded script runs on the server. Your machine runs only what lies in its own folders.";
    });
    form.querySelectorAll("[data-when]").forEach((part) => {
      const [name, wanted] = part.dataset.when.split("=");
      const away = value(name) !== wanted || (name === "dataset_id" && value("source") !== "dataset");
      part.hidden = away;
      part.querySelectorAll("[name^='value-'], [name=max_minutes]").forEach((input) => {
        input.disabled = away;
      });
    });
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
