// What the training made on its way, newest first: images that open large, texts in a calm box. Hidden while there is none.
(() => {
  const yard = window.trainyard;
  const { format } = yard;
  const PAGE = 24;
  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };

  function about(sample) {
    const words = [sample.step === null || sample.step === undefined ? "" : `step ${format.number(sample.step)}`];
    if (sample.bytes) words.push(format.bytes(sample.bytes));
    const line = make("p", { className: "sample-about" }, make("strong", { textContent: sample.name }));
    line.append(make("span", { className: "quiet small", textContent: words.filter(Boolean).join(" · ") }));
    return line;
  }
  function drawn(sample) {
    const item = make("li", { className: `sample ${sample.kind === "image" ? "image" : "text"}` });
    if (sample.kind === "image") {
      const picture = make("img", { src: sample.url, loading: "lazy", decoding: "async" });
      picture.alt = `Sample ${sample.name}${sample.step ? ` at step ${format.number(sample.step)}` : ""}`;
      const link = make(
        "a",
        { href: sample.url, className: "sample-picture", target: "_blank", rel: "noopener" },
        picture,
      );
      item.append(link, about(sample));
    } else {
      item.append(
        about(sample),
        make("pre", { className: "sample-text", tabIndex: 0, textContent: sample.text ?? "" }),
      );
    }
    return item;
  }

  yard.samples = (panel) => {
    const list = panel.querySelector("[data-samples-list]");
    const more = panel.querySelector("[data-samples-more]");
    const known = new Map();
    let next = null;

    function draw() {
      const there = new Map([...list.children].map((item) => [item.dataset.number, item]));
      const items = [...known.values()]
        .sort((a, b) => b.number - a.number)
        .map((sample) => {
          const item = there.get(String(sample.number)) ?? drawn(sample);
          item.dataset.number = sample.number;
          return item;
        });
      if (items.some((item, i) => list.children[i] !== item) || items.length !== list.children.length)
        list.replaceChildren(...items);
      panel.hidden = !items.length;
      more.hidden = !next;
    }
    // The same file written again for the same step takes the place of what it was.
    function add(sample) {
      const same = [...known.values()].find((one) => one.name === sample.name && one.step === sample.step);
      if (same && same.number > sample.number) return;
      if (same) known.delete(same.number);
      known.set(sample.number, sample);
    }
    async function load() {
      const address = new URL(panel.dataset.source, location.href);
      address.searchParams.set("limit", PAGE);
      if (next) address.searchParams.set("cursor", next);
      const answer = await fetch(address, { headers: { Accept: "application/json" } });
      if (!answer.ok) throw new Error(`The samples answered ${answer.status}`);
      const told = await answer.json();
      next = told.next;
      told.items.forEach(add);
      draw();
    }
    more.addEventListener("click", async () => {
      more.setAttribute("aria-busy", "true");
      await load().catch(() => yard.toast("The server does not answer. Try it again.", "danger"));
      more.removeAttribute("aria-busy");
    });
    requestAnimationFrame(() => setTimeout(() => load().catch(() => {})));
    return {
      add(sample) {
        add(sample);
        draw();
      },
    };
  };
})();
