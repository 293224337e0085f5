// What every page has: theme switch, menus, toasts, copy buttons, confirmation, times that stay true, fresh regions.
(() => {
  const yard = window.trainyard;
  const each = (selector, act, within = document) => within.querySelectorAll(selector).forEach(act);

  yard.icon = (name) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("class", "icon");
    svg.setAttribute("aria-hidden", "true");
    const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
    use.setAttribute("href", `${document.body.dataset.icons}#${name}`);
    svg.append(use);
    return svg;
  };

  // --- Theme ---
  const themes = { auto: ["circle-half-2", "as the system"], light: ["sun", "light"], dark: ["moon", "dark"] };
  function showTheme(button) {
    const [icon, word] = themes[yard.theme.choice()];
    button.replaceChildren(yard.icon(icon));
    button.setAttribute("aria-label", `Theme: ${word}. Change it`);
    button.title = `Theme: ${word}`;
    button.hidden = false;
  }
  each("[data-theme-switch]", (button) => {
    showTheme(button);
    button.addEventListener("click", () => {
      const names = Object.keys(themes);
      yard.theme.choose(names[(names.indexOf(yard.theme.choice()) + 1) % names.length]);
      showTheme(button);
      yard.say(`Theme: ${themes[yard.theme.choice()][1]}`);
    });
  });

  // --- Words for screen readers, toasts for everybody ---
  yard.say = (text) => {
    document.getElementById("announcer").textContent = text;
  };
  yard.toast = (text, kind = "info") => {
    const toast = document.createElement("div");
    toast.className = `toast-note ${kind}`;
    const words = document.createElement("p");
    words.textContent = text;
    const close = document.createElement("button");
    close.type = "button";
    close.className = "icon-button";
    close.setAttribute("aria-label", "Dismiss this message");
    close.append(yard.icon("x"));
    toast.append(yard.icon({ success: "circle-check", danger: "alert-circle" }[kind] || "info-circle"), words, close);
    document.querySelector(".toasts").append(toast);
    leaveInTime(toast);
  };
  function leaveInTime(toast) {
    toast.querySelector("button").addEventListener("click", () => toast.remove());
    if (toast.classList.contains("danger")) return;
    let timer = setTimeout(() => toast.remove(), 8000);
    toast.addEventListener("mouseenter", () => clearTimeout(timer));
    toast.addEventListener("mouseleave", () => {
      timer = setTimeout(() => toast.remove(), 3000);
    });
  }
  each(".toast-note", leaveInTime);

  // --- Menus made of <details>: one open at a time, closed by Escape or a click elsewhere ---
  document.addEventListener("click", (event) => {
    each("details.menu[open]", (menu) => {
      if (!menu.contains(event.target)) menu.open = false;
    });
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    each("details.menu[open]", (menu) => {
      menu.open = false;
      menu.querySelector("summary").focus();
    });
  });

  // --- Copy ---
  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      /* not on a secure address */
    }
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "visually-hidden";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
  yard.copy = async (text, button) => {
    if (!(await copy(text))) {
      yard.toast("The browser did not allow copying. Select the text instead.");
      return;
    }
    yard.say("Copied");
    const label = button.querySelector("[data-copy-label]");
    if (label) {
      label.dataset.before ||= label.textContent;
      label.textContent = "Copied";
    } else button.replaceChildren(yard.icon("check"));
    setTimeout(() => {
      if (label) label.textContent = label.dataset.before;
      else button.replaceChildren(yard.icon("copy"));
    }, 2000);
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const source = document.getElementById(button.dataset.copy);
    if (source) yard.copy(source.value ?? source.textContent.trim(), button);
  });
  each("[data-copy]", (button) => {
    button.hidden = false;
  });

  // --- Forms: ask before what cannot be undone, send once ---
  // data-preview: the address that knows what the form would do; its answer is part of the question (js/billing.js).
  const dialog = document.getElementById("confirm");
  const standardTitle = dialog.querySelector("h2").textContent;
  let asked = null;
  function showQuestion(form, { text, facts = [] }) {
    const { confirmTitle, confirmButton, confirmTone } = form.dataset;
    const button = dialog.querySelector("[value=yes]");
    const list = dialog.querySelector("[data-confirm-facts]");
    dialog.querySelector("h2").textContent = confirmTitle || standardTitle;
    dialog.querySelector("[data-confirm-text]").textContent = text;
    list.hidden = !facts.length;
    list.replaceChildren(
      ...facts.flatMap(([name, value]) => [
        Object.assign(document.createElement("dt"), { textContent: name }),
        Object.assign(document.createElement("dd"), { textContent: value }),
      ]),
    );
    button.textContent = confirmButton || "Go on";
    button.className = `btn btn-${confirmTone || "danger"}`;
    dialog.returnValue = "";
    dialog.onclose = () => {
      if (dialog.returnValue === "yes") send(form);
    };
    dialog.showModal();
  }
  function send(form) {
    const current = form.isConnected ? form : document.querySelector(`form[action="${form.getAttribute("action")}"]`);
    if (!current) {
      yard.toast("That is no longer possible: the state has changed.");
      return;
    }
    asked = current;
    current.requestSubmit();
  }
  async function ask(form) {
    if (!form.dataset.preview) {
      showQuestion(form, { text: form.dataset.confirm });
      return;
    }
    if (form.dataset.looking) return;
    form.dataset.looking = "yes";
    each("button[type=submit]", (button) => button.setAttribute("aria-busy", "true"), form);
    const words = await yard.preview(form);
    delete form.dataset.looking;
    each("button[type=submit]", (button) => button.removeAttribute("aria-busy"), form);
    if (words) showQuestion(form, words);
  }
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.dataset.confirm && asked !== form && dialog.showModal) {
      event.preventDefault();
      ask(form);
      return;
    }
    asked = null;
    if (event.defaultPrevented || form.method === "dialog") return;
    if (form.dataset.sent) {
      event.preventDefault();
      return;
    }
    if (!form.dispatchEvent(new CustomEvent("beforesend", { bubbles: true, cancelable: true }))) {
      event.preventDefault();
      return;
    }
    form.dataset.sent = "yes";
    each(
      "button[type=submit], button:not([type])",
      (button) => {
        button.setAttribute("aria-busy", "true");
      },
      form,
    );
  });
  addEventListener("pageshow", () =>
    each("form[data-sent]", (form) => {
      delete form.dataset.sent;
      each("[aria-busy]", (button) => button.removeAttribute("aria-busy"), form);
    }),
  );
  const firstWrong = document.querySelector(".error-summary, [aria-invalid=true]");
  if (firstWrong && !document.querySelector("[data-wizard]")) firstWrong.focus();

  // A page that answers a form and shows a key once: loading it again leads to the page without the key.
  each("[data-address]", (part) => history.replaceState(null, "", part.dataset.address));

  // --- Times that stay true while the page is open ---
  setInterval(
    () =>
      each("time[datetime]", (time) => {
        if (!/ ago$|^just now$/.test(time.textContent)) return;
        const words = yard.format.ago(new Date(time.dateTime));
        if (words && words !== time.textContent) time.textContent = words;
      }),
    1000,
  );

  // --- Fresh regions: the server draws, the page swaps what changed ---
  yard.refresh = async (address = location.href) => {
    const answer = await fetch(address, { headers: { Accept: "text/html" }, credentials: "same-origin" });
    if (!answer.ok) throw new Error(`The page answered ${answer.status}`);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    each("[data-region]", (region) => {
      const next = fresh.querySelector(`[data-region="${region.dataset.region}"]`);
      if (!next || next.innerHTML === region.innerHTML) return;
      const focused = region.contains(document.activeElement) ? document.activeElement : null;
      const place =
        focused &&
        (focused.id
          ? `#${CSS.escape(focused.id)}`
          : focused.dataset.focus && `[data-focus="${focused.dataset.focus}"]`);
      region.replaceChildren(...next.childNodes);
      if (focused) ((place && region.querySelector(place)) || region).focus();
      each(
        "[data-copy]",
        (button) => {
          button.hidden = false;
        },
        region,
      );
    });
    document.dispatchEvent(new CustomEvent("regionsrefreshed"));
    return fresh;
  };
})();
