// The wizard: one step at a time, each checked before the next, with a live quote. Without this file it is one long form.
(() => {
  const form = document.querySelector("form[data-wizard]");
  if (!form) return;
  const { format, icon, say, blockPlaces } = window.trainyard;
  const steps = [...form.querySelectorAll("[data-step]")];
  const stations = [...document.querySelectorAll("[data-station]")];
  const value = (name) => new FormData(form).get(name) || "";
  const fieldOf = (element) => element.closest(".field");
  let at = 0;
  let quoting = null;
  let timer = 0;
  let named = Boolean(form.elements.name.value);

  // --- Errors beside their fields ---
  function complain(element, sentence) {
    const field = fieldOf(element);
    forgive(element);
    const wrong = document.createElement("p");
    wrong.className = "wrong";
    wrong.id = `${element.name}-wrong`;
    wrong.append(icon("alert-circle"), Object.assign(document.createElement("span"), { textContent: sentence }));
    field.append(wrong);
    element.setAttribute("aria-invalid", "true");
    element.setAttribute("aria-describedby", [field.querySelector(".hint")?.id, wrong.id].filter(Boolean).join(" "));
  }
  function forgive(element) {
    const field = fieldOf(element);
    field?.querySelectorAll(":scope > .wrong").forEach((wrong) => wrong.remove());
    element.removeAttribute("aria-invalid");
  }
  const elementOf = (name) => {
    const found = form.elements[name];
    return found instanceof RadioNodeList ? found[0] : found;
  };
  function sentenceOf(element) {
    const { validity, min, max, type } = element;
    if (validity.badInput) return "This must be a number.";
    if (validity.valueMissing) return type === "radio" ? "Choose one." : "Fill this in.";
    if (validity.stepMismatch) return "This must be a whole number.";
    if (validity.rangeUnderflow || validity.rangeOverflow)
      return max
        ? `Choose a value from ${format.number(Number(min))} to ${format.number(Number(max))}.`
        : `Choose at least ${min}.`;
    return validity.valid ? null : element.validationMessage;
  }
  // The first element of a step that is not right, or null; every wrong one says so.
  function firstWrong(step) {
    let first = null;
    const note = (element, sentence) => {
      complain(element, sentence);
      first ||= element;
    };
    step.querySelectorAll("input, select, textarea").forEach((element) => {
      if (element.disabled || element.closest("[hidden]:not([data-step])")) return;
      const sentence = sentenceOf(element);
      if (sentence) note(element, sentence);
      else forgive(element);
    });
    if (step.dataset.step === "data") {
      if (value("source") === "local" && !value("local_path").trim())
        note(elementOf("local_path"), "Give the path of the file on your machine.");
      if (value("source") === "dataset" && !value("dataset_id"))
        note(elementOf("dataset_id") || elementOf("source"), "Choose a data set, or a file on your machine.");
    }
    if (step.dataset.step === "model" && value("base_model") === "other" && !value("base_folder").trim())
      note(elementOf("base_folder"), "Give a folder, or the name of a model on the hub.");
    if (step.dataset.step === "settings" && value("length") === "max_steps" && !value("max_steps"))
      note(elementOf("max_steps"), "Give the number of steps.");
    if (step.dataset.step === "place" && !value("place"))
      note(elementOf("place"), "Choose a place. A machine of yours is free; the server needs a paid plan.");
    return first;
  }

  // --- Steps ---
  function show(index, focus = true) {
    at = index;
    steps.forEach((step, i) => {
      step.hidden = i !== at;
    });
    stations.forEach((station, i) => {
      const mark = i < at ? "done" : i === at ? "here" : "todo";
      station.className = mark;
      station.querySelector("progress")?.setAttribute("value", i < at ? 100 : 0);
      station
        .querySelector(".station")
        .replaceChildren(mark === "done" ? icon("check") : mark === "here" ? "" : String(i + 1));
      station.querySelector("[data-station-state]").textContent = { done: ", done", here: ", under way", todo: "" }[
        mark
      ];
      if (mark === "here") station.setAttribute("aria-current", "step");
      else station.removeAttribute("aria-current");
    });
    if (steps[at].dataset.step === "place") suggestName();
    if (!focus) return;
    steps[at].querySelector("h2").focus({ preventScroll: true });
    scrollTo({ top: 0, behavior: "smooth" });
  }
  function go(index) {
    for (let i = at; i < index; i += 1) {
      const wrong = firstWrong(steps[i]);
      if (!wrong) continue;
      if (i !== at) show(i);
      const more = wrong.closest("details");
      if (more) more.open = true;
      wrong.focus();
      return;
    }
    show(index);
  }

  // --- What depends on what ---
  function adapt() {
    form.querySelectorAll("[data-when]").forEach((part) => {
      const [name, wanted] = part.dataset.when.split("=");
      part.hidden = value(name) !== wanted;
    });
    const base = form.querySelector("[name=base_model]:checked")?.dataset.place || "any";
    blockPlaces(form, (place) => {
      const server = place.value === "server";
      if (server && value("source") === "local") return "A file on your machine trains on your machine.";
      if (server && base === "agent") return "This base model is on your machine.";
      return !server && base === "server" ? "This base model is on the server only." : "";
    });
    summarise();
  }
  const labelOf = (name) => form.querySelector(`[name=${name}]:checked`)?.dataset.label || "";
  function summarise() {
    const set = (name, text) => {
      document.querySelector(`[data-choice-${name}]`).textContent = text || "–";
    };
    set("data", value("source") === "local" ? value("local_path") || "A file on my machine" : labelOf("dataset_id"));
    set("model", value("base_model") === "other" ? value("base_folder") || "Another model" : labelOf("base_model"));
    set("method", labelOf("method"));
    const count = value(value("length"));
    set(
      "length",
      count &&
        `${count} ${value("length") === "epochs" ? (count === "1" ? "epoch" : "epochs") : count === "1" ? "step" : "steps"}`,
    );
    set("place", labelOf("place"));
  }
  function suggestName() {
    if (named) return;
    const data =
      value("source") === "local"
        ? value("local_path")
            .split(/[\\/]/)
            .pop()
            .replace(/\.[a-z]+$/i, "")
        : labelOf("dataset_id");
    form.elements.name.value = [data, labelOf("method")].filter(Boolean).join(", ").slice(0, 120);
  }

  // --- The quote ---
  function order() {
    const local = value("source") === "local";
    const place = value("place");
    const parameters = {};
    const setting = (name) => {
      const text = value(name);
      if (text !== "") parameters[name] = Number.isNaN(Number(text)) ? text : Number(text);
    };
    steps[2].querySelectorAll("[name]").forEach(({ name }) => {
      const unused =
        name === "length" ||
        (name === "epochs" && value("length") !== "epochs") ||
        (name === "max_steps" && value("length") !== "max_steps") ||
        (name === "lora_rank" && value("method") === "full");
      if (!unused) setting(name);
    });
    const mapping = Object.fromEntries(
      ["prompt", "completion", "text"].map((name) => [name, value(`map_${name}`)]).filter(([, column]) => column),
    );
    return {
      name: value("name") || "Quote",
      recipe: "language",
      parameters,
      ...(local
        ? { local_path: value("local_path"), ...(Object.keys(mapping).length ? { mapping } : {}) }
        : { dataset_id: Number(value("dataset_id")) }),
      base_model: value("base_model") === "other" ? value("base_folder") : value("base_model"),
      place: place === "server" ? "server" : { agent: Number(place.split(":")[1]) },
    };
  }
  function price(headline, words, bad = false) {
    document.querySelector("[data-quote-price]").textContent = headline;
    document.querySelector("[data-quote-words]").textContent = words;
    document.querySelector("[data-quote]").classList.toggle("bad", bad);
  }
  const complete = () =>
    [...form.elements].every(
      (element) => element.name === "name" || element.closest("[data-when][hidden]") || element.validity.valid,
    ) &&
    value("place") &&
    value("base_model") &&
    (value("base_model") !== "other" || value("base_folder").trim()) &&
    (value("source") === "local" ? value("local_path").trim() : value("dataset_id"));
  async function quote() {
    const inSummary = document.querySelector("[data-choice-price]");
    quoting?.abort();
    if (!complete()) {
      inSummary.textContent = "–";
      price("The price comes as soon as everything is filled in", "Nothing is charged before the training starts.");
      return;
    }
    quoting = new AbortController();
    try {
      const answer = await fetch("/api/training-jobs/quote", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(order()),
        signal: quoting.signal,
      });
      const body = await answer.json();
      if (!answer.ok) {
        refuse(body.error);
        return;
      }
      const minutes = body.minutes ? `About ${format.number(Math.ceil(body.minutes))} min of training.` : "";
      if (value("place") !== "server") {
        inSummary.textContent = "Free";
        price("Free", `Your own machine does the work. ${minutes}`);
      } else {
        inSummary.textContent = `About ${format.credits(body.credits)}`;
        price(
          `About ${format.credits(body.credits)}`,
          `${minutes} Set aside: ${format.credits(body.credits)}; what is not used returns to you. It costs at most ${format.credits(body.at_most)}; there it saves a checkpoint and pauses. Going on from there is another start, and you see its price first.`,
        );
      }
    } catch (error) {
      if (error.name !== "AbortError")
        price(
          "No price at the moment",
          "The server did not answer. You can start all the same: it says the price before it charges.",
        );
    }
  }
  function refuse(error) {
    document.querySelector("[data-choice-price]").textContent = "–";
    const [name, sentence] = Object.entries(error?.fields || {})[0] || [];
    price("It cannot start like this", sentence || error?.message || "The server refused the order.", true);
    const element = name && elementOf(name);
    if (element && value(name)) complain(element, sentence);
  }
  function soon() {
    clearTimeout(timer);
    timer = setTimeout(quote, 400);
  }

  // --- Beginning ---
  form.noValidate = true;
  document.querySelector("[data-stepper]").hidden = false;
  document.querySelector("[data-choice]").hidden = false;
  form.querySelectorAll("[data-next]").forEach((button) => {
    button.hidden = false;
    button.addEventListener("click", () => go(at + 1));
  });
  form.querySelectorAll("[data-back]").forEach((button) => {
    button.hidden = false;
    button.addEventListener("click", () => show(at - 1));
  });
  stations.forEach((station, i) =>
    station.querySelector("a").addEventListener("click", (event) => {
      event.preventDefault();
      if (i !== at) (i < at ? show : go)(i);
    }),
  );
  form.elements.name.addEventListener("input", () => {
    named = true;
  });
  form.addEventListener("input", (event) => {
    if (event.target.getAttribute("aria-invalid")) forgive(event.target);
    summarise();
    soon();
  });
  form.addEventListener("change", () => {
    adapt();
    soon();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.matches("input:not([type=radio])") && at < steps.length - 1) {
      event.preventDefault();
      go(at + 1);
    }
  });
  form.addEventListener("submit", (event) => {
    const step = steps.findIndex((candidate) => firstWrong(candidate));
    if (step < 0) return;
    event.preventDefault();
    show(step);
    firstWrong(steps[step]).focus();
    say("One thing needs another look.");
  });
  form.querySelectorAll(".error-summary a").forEach((link) =>
    link.addEventListener("click", (event) => {
      const element = elementOf(link.hash.slice(1));
      if (!element) return;
      event.preventDefault();
      show(steps.indexOf(element.closest("[data-step]")));
      const more = element.closest("details");
      if (more) more.open = true;
      element.focus();
    }),
  );
  const refused = form.querySelector("[data-step] .wrong");
  adapt();
  show(refused ? steps.indexOf(refused.closest("[data-step]")) : 0, false);
  if (refused) {
    const field = refused.closest(".field");
    (
      field?.querySelector("[aria-invalid=true]") ||
      field?.querySelector("input, select") ||
      steps[at].querySelector("h2")
    ).focus();
  } else form.querySelector(".error-summary")?.focus();
  quote();
})();
