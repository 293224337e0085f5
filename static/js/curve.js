// The loss curve: uPlot with a cross-hair, smoothing, a second series for held-out rows, a sentence and a table that say the same.
(() => {
  const { format } = window.trainyard;
  const TABLE_ROWS = 200;
  const SMOOTH_FROM = 30;

  const known = (points) => new Map((points || []).filter(([, value]) => Number.isFinite(value)));
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  // Tokens are light-dark() pairs, which a canvas cannot read: the browser resolves them on an element.
  function colour(token) {
    const probe = document.createElement("i");
    probe.className = `probe-${token}`;
    document.body.append(probe);
    const resolved = getComputedStyle(probe).color;
    probe.remove();
    return resolved;
  }

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

  window.trainyard.curve = (panel, series) => {
    const part = (name) => panel.querySelector(`[data-curve-${name}]`);
    const holder = part("plot");
    const values = { loss: known(series.loss), eval_loss: known(series.eval_loss) };
    let columns = [[], [], [], []]; // step, loss, smoothed loss, held-out loss
    let plot = null;
    let smooth = true;
    let zoomed = false;
    let timer = 0;
    let drawn = 0;

    function gather() {
      const steps = [...new Set([...values.loss.keys(), ...values.eval_loss.keys()])].sort((a, b) => a - b);
      const loss = steps.map((step) => values.loss.get(step) ?? null);
      columns = [steps, loss, smoothed(loss), steps.map((step) => values.eval_loss.get(step) ?? null)];
    }

    // --- Drawing ---
    const showsSmooth = () => smooth && columns[0].length > SMOOTH_FROM;
    function axis(side) {
      return {
        side,
        stroke: colour("quiet"),
        font: `12px ${css("--tblr-font-sans-serif")}`,
        gap: 6,
        grid: { show: side === 3, stroke: colour("line"), width: 1 },
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
      const go = colour("signal");
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
            stroke: colour("ink"),
            width: 1.5,
            dash: [6, 4],
            spanGaps: true,
            points: { show: true, size: 6, fill: colour("surface"), stroke: colour("ink") },
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
      gather();
      if (!columns[0].length) return;
      if (!plot) build();
      const held = zoomed ? { min: plot.scales.x.min, max: plot.scales.x.max } : null;
      fade();
      plot.setData(shownColumns(), !held);
      if (held) plot.setScale("x", held);
      part("legend").hidden = part("table").hidden = part("smooth").hidden = false;
      panel.querySelector("[data-legend-eval]").hidden = !values.eval_loss.size;
      const cursor = part("cursor");
      cursor.hidden = false;
      cursor.max = columns[0].length - 1;
      if (document.activeElement !== cursor) cursor.value = cursor.max;
      summarise();
      if (part("table").open) tabulate();
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
        (columns[1][index] === null ? "" : ` · loss ${format.value(columns[1][index])}`) +
        (held === null ? "" : ` · held back ${format.value(held)}`)
      );
    }
    function read(index) {
      part("readout").textContent = index === null || index === undefined ? "" : words(index);
    }
    function summarise() {
      const points = [...values.loss].sort((a, b) => a[0] - b[0]);
      if (!points.length) return;
      const [first, last] = [points[0], points[points.length - 1]];
      const best = points.reduce((a, b) => (b[1] < a[1] ? b : a));
      const held = [...values.eval_loss].sort((a, b) => a[0] - b[0]).pop();
      if (points.length === 1) {
        part("summary").textContent = `Loss ${last[1].toFixed(3)} at step ${format.number(last[0])}.`;
        return;
      }
      part("summary").textContent =
        `Loss ${last[1] < first[1] ? "fell" : "went"} from ${first[1].toFixed(3)} to ${last[1].toFixed(3)} over ${format.number(last[0])} steps. ` +
        `Lowest: ${best[1].toFixed(3)} at step ${format.number(best[0])}.${held ? ` On rows held back from training: ${held[1].toFixed(3)}.` : ""}`;
    }
    function tabulate() {
      const every = Math.floor(columns[0].length / TABLE_ROWS) + 1;
      const body = document.createElement("tbody");
      columns[0].forEach((step, i) => {
        if (i % every && i !== columns[0].length - 1 && columns[3][i] === null) return;
        const row = body.insertRow();
        for (const text of [format.number(step), columns[1][i]?.toFixed(4) ?? "", columns[3][i]?.toFixed(4) ?? ""]) {
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
        if (!values[name]) return;
        steps.forEach((step, i) => {
          if (Number.isFinite(fresh[i])) values[name].set(step, fresh[i]);
        });
        soon();
      },
    };
  };
})();
