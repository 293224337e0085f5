// The large curve: uPlot with a cross-hair, smoothing, the same measured on rows held back, a sentence and a table that say
// the same. It shows one metric of the job at a time; a choice appears where there are several.
(() => {
  const yard = window.trainyard;
  const { format } = yard;
  const { label, isLoss, mainOf, partnerOf } = yard.metrics;
  const TABLE_ROWS = 200;
  const SMOOTH_FROM = 30;

  const known = (points) => new Map((points || []).filter(([, value]) => Number.isFinite(value)));
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  // Tokens are light-dark() pairs, which a canvas cannot read: the browser resolves them on an element.
  yard.colour = (token) => {
    const probe = document.createElement("i");
    probe.className = `probe-${token}`;
    document.body.append(probe);
    const resolved = getComputedStyle(probe).color;
    probe.remove();
    return resolved;
  };
  yard.chartFont = (size) => `${size}px ${css("--tblr-font-sans-serif")}`;

  // Exponential mean whose weights sum to one, once from each side: it follows the curve without lagging behind it.
  // It reaches over about a thirtieth of the curve, so that it says the same of a short and of a long one.
  function smoothed(values) {
    const kept = Math.min(0.97, Math.max(0, 1 - SMOOTH_FROM / values.length));
    const pass = (given) => {
      let mean = 0;
      let weight = 0;
      return given.map((value) => {
        if (value === null) return null;
        mean = kept * mean + (1 - kept) * value;
        weight = kept * weight + (1 - kept);
        return mean / weight;
      });
    };
    const back = pass([...values].reverse()).reverse();
    return pass(values).map((value, i) => (value === null ? null : (value + back[i]) / 2));
  }

  yard.curve = (panel, series) => {
    const part = (name) => panel.querySelector(`[data-curve-${name}]`);
    const holder = part("plot");
    const values = new Map(Object.entries(series).map(([name, points]) => [name, known(points)]));
    const nothing = new Map();
    let hidden = new Set();
    let chosen = null;
    let shown = "loss";
    let partner = "eval_loss";
    let columns = [[], [], [], []]; // step, value, smoothed value, value on rows held back
    let plot = null;
    let smooth = true;
    let zoomed = false;
    let timer = 0;
    let drawn = 0;

    const points = (name) => values.get(name) ?? nothing;
    function gather() {
      const steps = [...new Set([...points(shown).keys(), ...points(partner).keys()])].sort((a, b) => a - b);
      const own = steps.map((step) => points(shown).get(step) ?? null);
      columns = [steps, own, smoothed(own), steps.map((step) => points(partner).get(step) ?? null)];
    }

    // --- The choice ---
    function choose() {
      const names = [...values.keys()].filter((name) => values.get(name).size && !hidden.has(name)).sort();
      const offered = names.filter((name) => !names.some((other) => partnerOf(other, names) === name));
      const before = `${shown} ${partner}`;
      shown = offered.includes(chosen) ? chosen : mainOf(offered);
      partner = partnerOf(shown, names) ?? (shown === "loss" ? "eval_loss" : "");
      if (hidden.has(partner)) partner = "";
      const select = part("choice");
      const main = mainOf(offered);
      const order = offered.sort((a, b) => (b === main) - (a === main));
      if ([...select.options].map((option) => option.value).join() !== order.join()) {
        select.replaceChildren(...order.map((name) => new Option(label(name), name)));
      }
      select.value = shown;
      select.hidden = offered.length < 2;
      if (names.length) part("title").textContent = label(shown);
      for (const place of panel.querySelectorAll("[data-curve-name]")) place.textContent = label(shown);
      for (const place of panel.querySelectorAll("[data-curve-partner]"))
        place.textContent = label(partner || "eval_loss");
      return `${shown} ${partner}` !== before;
    }

    // --- Drawing ---
    const showsSmooth = () => smooth && columns[0].length > SMOOTH_FROM;
    function axis(side) {
      return {
        side,
        stroke: yard.colour("quiet"),
        font: yard.chartFont(12),
        gap: 6,
        grid: { show: side === 3, stroke: yard.colour("line"), width: 1 },
        ticks: { show: false },
        ...(side === 3
          ? { size: 52, values: (_, splits) => splits.map((x) => String(+x.toPrecision(6))) }
          : {
              size: 30,
              space: 80,
              values: (_, splits) => splits.map((x) => (Number.isInteger(x) ? format.number(x) : "")),
            }),
      };
    }
    function options() {
      const go = yard.colour("signal");
      return {
        width: holder.clientWidth,
        height: holder.clientHeight,
        padding: [10, 16, 0, 0],
        scales: {
          x: { time: false },
          y: {
            range: (_, low, high) => {
              const air = (high - low) * 0.06 || 0.1;
              return [low - air, high + air];
            },
          },
        },
        axes: [axis(2), axis(3)],
        cursor: { points: { size: 8 }, drag: { x: true, y: false, dist: 8 }, y: true },
        legend: { show: false },
        series: [
          {},
          { stroke: go, width: 2, points: { show: () => columns[0].length <= SMOOTH_FROM, size: 5, fill: go } },
          { stroke: go, width: 2, points: { show: false } },
          {
            stroke: yard.colour("ink"),
            width: 1.5,
            dash: [6, 4],
            spanGaps: true,
            points: { show: true, size: 6, fill: yard.colour("surface"), stroke: yard.colour("ink") },
          },
        ],
        hooks: {
          setCursor: [(chart) => read(chart.cursor.idx)],
          setScale: [
            (chart, key) => {
              if (key !== "x" || !columns[0].length) return;
              zoomed = chart.scales.x.min > columns[0][0] || chart.scales.x.max < columns[0][columns[0].length - 1];
              part("zoom").hidden = !zoomed;
            },
          ],
        },
      };
    }
    function build() {
      plot?.destroy();
      plot = null;
      if (!columns[0].length) return;
      holder.replaceChildren();
      plot = new window.uPlot(options(), shownColumns(), holder);
      fade();
    }
    const shownColumns = () => [
      columns[0],
      columns[1],
      showsSmooth() ? columns[2] : columns[1].map(() => null),
      columns[3],
    ];
    function fade() {
      plot.series[1].alpha = showsSmooth() ? 0.35 : 1;
      plot.series[1].width = showsSmooth() ? 1 : 2;
    }
    function draw() {
      drawn = performance.now();
      const isOther = choose();
      gather();
      if (!columns[0].length) {
        empty();
        return;
      }
      if (isOther) zoomed = false;
      if (!plot) build();
      const held = zoomed ? { min: plot.scales.x.min, max: plot.scales.x.max } : null;
      fade();
      plot.setData(shownColumns(), !held);
      if (held) plot.setScale("x", held);
      part("legend").hidden = part("table").hidden = part("smooth").hidden = false;
      panel.querySelector("[data-legend-eval]").hidden = !points(partner).size;
      showHeldBackColumn(points(partner).size > 0);
      const cursor = part("cursor");
      cursor.hidden = false;
      cursor.max = columns[0].length - 1;
      if (document.activeElement !== cursor) cursor.value = cursor.max;
      summarise();
      if (part("table").open) tabulate();
    }
    // Nothing to show: not yet, or the rules that gave it were switched off.
    function empty() {
      if (!plot) return;
      plot.destroy();
      plot = null;
      const words = Object.assign(document.createElement("p"), { className: "curve-empty quiet" });
      words.textContent = "Every curve of this training is switched off.";
      holder.replaceChildren(words);
      part("legend").hidden =
        part("table").hidden =
        part("smooth").hidden =
        part("zoom").hidden =
        part("cursor").hidden =
          true;
      part("summary").textContent = part("readout").textContent = "";
    }
    // A table without values on rows held back has no column for them.
    function showHeldBackColumn(wanted) {
      const row = part("table").querySelector("thead tr");
      if (row.cells.length === (wanted ? 3 : 2)) return;
      if (!wanted) {
        row.cells[2].remove();
        return;
      }
      const head = Object.assign(document.createElement("th"), {
        scope: "col",
        className: "number",
        textContent: label(partner),
      });
      head.dataset.curvePartner = "";
      row.append(head);
    }
    function soon() {
      if (timer) return;
      timer = setTimeout(
        () => {
          timer = 0;
          draw();
        },
        Math.max(0, 250 - (performance.now() - drawn)),
      );
    }

    // --- The same in words ---
    function words(index) {
      const held = columns[3][index];
      return (
        `Step ${format.number(columns[0][index])}` +
        (columns[1][index] === null ? "" : ` · ${label(shown).toLowerCase()} ${format.value(columns[1][index])}`) +
        (held === null
          ? ""
          : ` · ${partner.startsWith("eval_") ? "held back" : label(partner).toLowerCase()} ${format.value(held)}`)
      );
    }
    function read(index) {
      part("readout").textContent = index === null || index === undefined ? "" : words(index);
    }
    function summarise() {
      const own = [...points(shown)].sort((a, b) => a[0] - b[0]);
      if (!own.length) return;
      const [first, last] = [own[0], own[own.length - 1]];
      if (own.length === 1) {
        part("summary").textContent = `${label(shown)} ${format.value(last[1])} at step ${format.number(last[0])}.`;
        return;
      }
      const ends = [["Lowest", own.reduce((a, b) => (b[1] < a[1] ? b : a))]];
      if (!isLoss(shown)) ends.push(["highest", own.reduce((a, b) => (b[1] > a[1] ? b : a))]);
      const best = ends
        .map(([word, [step, value]]) => `${word}: ${format.value(value)} at step ${format.number(step)}`)
        .join(", ");
      const held = [...points(partner)].sort((a, b) => a[0] - b[0]).pop();
      const about = partner === "eval_loss" ? "On rows held back from training" : label(partner);
      part("summary").textContent =
        `${label(shown)} ${isLoss(shown) && last[1] < first[1] ? "fell" : "went"} from ${format.value(first[1])} to ${format.value(last[1])} over ${format.number(last[0])} ${last[0] === 1 ? "step" : "steps"}. ` +
        `${best}.${held ? ` ${about}: ${format.value(held[1])}.` : ""}`;
    }
    function tabulate() {
      const every = Math.floor(columns[0].length / TABLE_ROWS) + 1;
      const body = document.createElement("tbody");
      columns[0].forEach((step, i) => {
        if (i % every && i !== columns[0].length - 1 && columns[3][i] === null) return;
        const row = body.insertRow();
        const cell = (x) => (x === null ? "" : format.value(x));
        const held = points(partner).size ? [cell(columns[3][i])] : [];
        for (const text of [format.number(step), cell(columns[1][i]), ...held]) {
          Object.assign(row.insertCell(), { className: "number", textContent: text });
        }
      });
      part("table").querySelector("tbody").replaceWith(body);
    }

    // --- The reader's hands ---
    part("smooth").addEventListener("click", (event) => {
      smooth = !smooth;
      event.currentTarget.setAttribute("aria-pressed", String(smooth));
      draw();
    });
    part("choice").addEventListener("change", (event) => {
      chosen = event.target.value;
      zoomed = false;
      draw();
      yard.say(part("summary").textContent);
    });
    part("zoom").addEventListener("click", () => {
      zoomed = false;
      plot.setScale("x", { min: columns[0][0], max: columns[0][columns[0].length - 1] });
    });
    part("cursor").addEventListener("input", (event) => {
      const index = Number(event.target.value);
      event.target.setAttribute("aria-valuetext", words(index));
      plot.setCursor({
        left: plot.valToPos(columns[0][index], "x"),
        top: plot.valToPos(columns[1][index] ?? columns[3][index], "y"),
      });
    });
    part("table").addEventListener("toggle", () => {
      if (part("table").open) tabulate();
    });
    new ResizeObserver(() => {
      if (plot) plot.setSize({ width: holder.clientWidth, height: holder.clientHeight });
    }).observe(holder);
    document.addEventListener("themechange", () => {
      if (plot) {
        build();
        draw();
      }
    });
    draw();

    return {
      add(name, steps, fresh) {
        if (!values.has(name)) values.set(name, new Map());
        steps.forEach((step, i) => {
          if (Number.isFinite(fresh[i])) values.get(name).set(step, fresh[i]);
        });
        soon();
      },
      // The metrics that are not shown: their rules were switched off.
      hide(names) {
        hidden = new Set(names);
        draw();
      },
      main: () => mainOf([...values.keys()].filter((name) => !hidden.has(name))),
    };
  };
})();
