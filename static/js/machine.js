// The figures of the machine as small curves side by side: memory, processor, GPU, temperature, disk, network.
// Past readings come from one address after the first paint, new ones over the job's events. Only what the machine tells
// is drawn; each curve has its newest value in words and a table behind it.
(() => {
  const yard = window.trainyard;
  const { format } = yard;
  const MOST_DEVICES = 3; // of more, their mean and the highest are drawn; the table has each
  const TABLE_ROWS = 120;
  const speed = (value) => `${format.bytes(value)}/s`;
  const percent = (value) => `${Math.round(value)} %`;
  const degrees = (value) => `${Math.round(value)} °C`;
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  const atLeast = (least) => (low, high) => [0, Math.max(least, high * 1.08)];

  // figure: a column of the job's own figures; gpu: a column each device has.
  const CHARTS = [
    {
      title: "Memory",
      write: format.bytes,
      range: atLeast(1e6),
      lines: [{ figure: "memory_bytes", label: "Job" }, { gpu: "memory_bytes" }],
    },
    { title: "Processor", write: percent, range: atLeast(100), lines: [{ figure: "cpu_percent", label: "Job" }] },
    {
      title: "GPU",
      write: percent,
      range: atLeast(100),
      lines: [{ gpu: "percent" }],
      aside: { gpu: "watts", label: "power", write: (watts) => `${format.number(Math.round(watts))} W` },
    },
    {
      title: "Temperature",
      write: degrees,
      range: (low, high) => [Math.max(0, Math.floor(low / 10) * 10 - 5), Math.ceil(high / 10) * 10 + 5],
      lines: [{ figure: "cpu_temperature", label: "Processor" }, { gpu: "temperature" }],
    },
    {
      title: "Disk",
      write: speed,
      range: atLeast(1000),
      lines: [
        { figure: "disk_read_per_second", label: "Read" },
        { figure: "disk_written_per_second", label: "Written" },
      ],
      aside: { figure: "disk_free_bytes", label: "Free", write: (free) => `${format.bytes(free)} free` },
    },
    {
      title: "Network",
      write: speed,
      range: atLeast(1000),
      lines: [
        { figure: "network_received_per_second", label: "Received" },
        { figure: "network_sent_per_second", label: "Sent" },
      ],
    },
  ];
  const STYLES = [
    { key: "key", token: "signal", width: 1.75, dash: [] },
    { key: "key held-out", token: "ink", width: 1.5, dash: [6, 4] },
    { key: "key dotted", token: "quiet", width: 1.75, dash: [2, 3] },
    { key: "key long", token: "signal", width: 1.25, dash: [12, 4] },
  ];
  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const clock = (seconds, step) =>
    new Date(seconds * 1000).toLocaleTimeString("en-GB", { timeStyle: step < 60 ? "medium" : "short" });

  // --- One small curve ---
  function small(chart, data, grid) {
    const now = make("span", { className: "small-now" });
    const plotted = make("div", { className: "small-plot", role: "img" });
    const legend = make("ul", { className: "plain legend" });
    const table = make("table", { className: "table close inset" }, make("thead"), make("tbody"));
    const box = make(
      "div",
      { className: "scroll-box", tabIndex: 0, role: "region", ariaLabel: `Table: ${chart.title}` },
      table,
    );
    const fold = make("details", { className: "more" }, make("summary", {}, yard.icon("chevron-right"), "Table"), box);
    const figure = make(
      "figure",
      { className: "small-curve" },
      make("figcaption", {}, make("strong", { textContent: chart.title }), now),
      plotted,
      legend,
      fold,
    );
    let plot = null;
    let built = "";

    const deviceName = (i) => (data.gpus.length > 1 ? `GPU ${i}` : "GPU");
    const each = (line) =>
      data.gpus.map((_, i) => ({
        ...line,
        column: `gpu ${i} ${line.gpu}`,
        label: [deviceName(i), line.label].filter(Boolean).join(", "),
      }));
    const together = (line) =>
      (line.label
        ? [["in all", sum]]
        : [
            ["mean", (values) => sum(values) / values.length],
            ["highest", (values) => Math.max(...values)],
          ]
      ).map(([word, fold]) => ({
        ...line,
        column: `gpus ${word} ${line.gpu}`,
        label: `GPU ${word}`,
        values: data.folded(line.gpu, fold),
      }));
    // The columns that are told, with their values; `whole` also where there are many devices.
    const linesOf = (wanted, whole = false) =>
      wanted
        .flatMap((line) => {
          if (line.figure) return [{ ...line, column: line.figure }];
          return whole || data.gpus.length <= MOST_DEVICES ? each(line) : together(line);
        })
        .map((line) => ({ ...line, values: line.values ?? data.column(line.column) }))
        .filter((line) => line.values?.some((value) => value !== null));
    const valueAt = ({ values }, index) =>
      index === null || index === undefined ? values.findLast((value) => value !== null) : values[index];

    function read(index = null) {
      const lines = linesOf(chart.lines);
      const words = lines
        .map((line) => [line, valueAt(line, index)])
        .filter(([, value]) => Number.isFinite(value))
        .map(([line, value]) =>
          lines.length > 1 && lines.length < 4 ? `${line.label} ${chart.write(value)}` : chart.write(value),
        );
      for (const line of chart.aside ? linesOf([chart.aside]) : []) {
        const value = valueAt(line, index);
        if (Number.isFinite(value)) words.push(chart.aside.write(value));
      }
      now.textContent = words.slice(0, 5).join(" · ");
    }
    function options(lines) {
      const axis = (side) => ({
        side,
        stroke: yard.colour("quiet"),
        font: yard.chartFont(11),
        gap: 4,
        ticks: { show: false },
        grid: { show: side === 3, stroke: yard.colour("line"), width: 1 },
        ...(side === 3
          ? { size: 58, space: 34, values: (_, splits) => splits.map((value) => chart.write(value)) }
          : { size: 22, space: 74, values: (_, splits, _axis, _space, step) => splits.map((at) => clock(at, step)) }),
      });
      return {
        width: plotted.clientWidth,
        height: plotted.clientHeight,
        padding: [8, 20, 0, 0],
        scales: { x: { time: true }, y: { range: (_, low, high) => chart.range(low ?? 0, high ?? 1) } },
        axes: [axis(2), axis(3)],
        legend: { show: false },
        cursor: { sync: { key: "machine" }, y: false, drag: { x: false, y: false }, points: { size: 6 } },
        hooks: { setCursor: [(shown) => read(shown.cursor.idx)] },
        series: [
          {},
          ...lines.map((_, i) => {
            const style = STYLES[i % STYLES.length];
            return {
              stroke: yard.colour(style.token),
              width: style.width,
              dash: style.dash,
              points: { show: data.at.length < 2, size: 5 },
            };
          }),
        ],
      };
    }
    function build(lines) {
      plot?.destroy();
      plotted.replaceChildren();
      plot = new window.uPlot(options(lines), [data.at, ...lines.map((line) => line.values)], plotted);
      legend.replaceChildren(
        ...lines.map((line, i) => make("li", {}, make("i", { className: STYLES[i % STYLES.length].key }), line.label)),
      );
      legend.hidden = lines.length < 2;
    }
    function describe(lines) {
      const parts = lines.map((line) => {
        const values = line.values.filter((value) => value !== null);
        const ends = [Math.min(...values), Math.max(...values)].map(chart.write);
        return `${line.label}: now ${chart.write(values[values.length - 1])}, between ${ends[0]} and ${ends[1]}`;
      });
      plotted.setAttribute("aria-label", `${chart.title}. ${parts.join("; ")}.`);
    }
    function tabulate() {
      const lines = linesOf([...chart.lines, ...(chart.aside ? [chart.aside] : [])], true);
      const write = (line, value) => (Number.isFinite(value) ? (line.write || chart.write)(value) : "");
      const head = (text, i) => make("th", { scope: "col", className: i ? "number" : "", textContent: text });
      table.tHead.replaceChildren(make("tr", {}, ...["Time", ...lines.map((line) => line.label)].map(head)));
      const every = Math.floor(data.at.length / TABLE_ROWS) + 1;
      const body = make("tbody");
      data.at.forEach((at, index) => {
        if (index % every && index !== data.at.length - 1) return;
        const row = body.insertRow();
        row.append(make("td", { textContent: new Date(at * 1000).toLocaleTimeString("en-GB") }));
        for (const line of lines)
          row.append(make("td", { className: "number", textContent: write(line, line.values[index]) }));
      });
      table.tBodies[0].replaceWith(body);
    }
    fold.addEventListener("toggle", () => {
      if (fold.open) tabulate();
    });
    new ResizeObserver(() => plot?.setSize({ width: plotted.clientWidth, height: plotted.clientHeight })).observe(
      plotted,
    );

    return {
      draw(again) {
        const lines = linesOf(chart.lines);
        if (!lines.length) return false;
        if (!figure.isConnected) {
          const later = [...grid.children].find((other) => Number(other.dataset.place) > CHARTS.indexOf(chart));
          figure.dataset.place = CHARTS.indexOf(chart);
          grid.insertBefore(figure, later ?? null);
        }
        const wanted = lines.map((line) => line.column + line.label).join();
        if (again || !plot || wanted !== built || data.at.length < 4) {
          built = wanted;
          build(lines);
        } else plot.setData([data.at, ...lines.map((line) => line.values)]);
        describe(lines);
        read();
        if (fold.open) tabulate();
        return true;
      },
    };
  }

  // panel: the hidden section. The answer of its address is what was told so far.
  yard.machine = (panel) => {
    const grid = panel.querySelector("[data-machine-curves]");
    const data = yard.readings();
    const charts = CHARTS.map((chart) => small(chart, data, grid));
    let began = null;
    let timer = 0;
    const waiting = [];
    let loading = true;

    function draw(again = false) {
      timer = 0;
      if (data.at.length < 2) return; // one reading is no curve
      panel.hidden = false;
      panel.hidden = !charts.map((chart) => chart.draw(again)).some(Boolean);
    }
    function add(told) {
      const measured = began !== null && Number.isFinite(told.seconds) ? began + told.seconds : Date.now() / 1000;
      if (data.add(measured, told) && !timer) timer = setTimeout(draw, 250);
    }
    async function load() {
      loading = true;
      try {
        const answer = await fetch(panel.dataset.source, { headers: { Accept: "application/json" } });
        if (answer.ok) {
          const told = await answer.json();
          began = told.began;
          data.load(told);
        }
      } catch {
        /* the network is gone: what comes over the events is shown all the same */
      }
      loading = false;
      for (const told of waiting.splice(0)) add(told);
      draw(true);
    }
    document.addEventListener("themechange", () => draw(true));
    requestAnimationFrame(() => setTimeout(load));
    return { system: (told) => (loading ? waiting.push(told) : add(told)), again: load };
  };
})();
