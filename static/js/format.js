// The browser's half of the number formats; the server's half are the template filters of the same names.
(() => {
  const grouped = new Intl.NumberFormat("en-US");

  const number = (value) => grouped.format(value);
  const money = (cents) =>
    `$${(cents / 100).toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`;
  // `21 Nov 2026`, in UTC like every time the server writes.
  const day = (instant) =>
    new Date(instant).toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric", timeZone: "UTC" });
  const credits = (count) => `${grouped.format(count)} ${count === 1 ? "credit" : "credits"}`;

  function bytes(count) {
    for (const [unit, size] of [
      ["TB", 1e12],
      ["GB", 1e9],
      ["MB", 1e6],
      ["kB", 1e3],
    ]) {
      if (count >= size) return `${(count / size).toFixed(1).replace(/\.0$/, "")} ${unit}`;
    }
    return `${Math.floor(count)} B`;
  }

  function duration(seconds) {
    const whole = Math.max(0, Math.floor(seconds));
    const [days, hours, minutes, rest] = [
      Math.floor(whole / 86400),
      Math.floor(whole / 3600) % 24,
      Math.floor(whole / 60) % 60,
      whole % 60,
    ];
    if (days) return `${days} d ${hours} h`;
    if (hours) return `${hours} h ${minutes} min`;
    return minutes ? `${minutes} min ${rest} s` : `${rest} s`;
  }

  // The words for an instant in the past; null for one still to come.
  function ago(instant, now = Date.now()) {
    const seconds = (now - instant.getTime()) / 1000;
    if (seconds < 0) return null;
    if (seconds < 10) return "just now";
    const [unit, size] = [
      ["d", 86400],
      ["h", 3600],
      ["min", 60],
      ["s", 1],
    ].find(([, length]) => seconds >= length);
    return `${Math.floor(seconds / size)} ${unit} ago`;
  }

  // A loss or another measured value in about four significant digits: `2.315`, `0.02315`, `2.32e-4`.
  const PLACES = [
    [100, 1],
    [10, 2],
    [1, 3],
    [0.1, 4],
    [0.01, 5],
    [0, 6],
  ];
  function value(x) {
    if (x === null || x === undefined || Number.isNaN(x)) return "–";
    const size = Math.abs(x);
    if (!size) return "0";
    if (size < 0.001 || size >= 1e6) return x.toExponential(2);
    return x.toFixed(PLACES.find(([least]) => size >= least)[1]);
  }

  window.trainyard.format = { number, credits, money, day, bytes, duration, ago, value };
})();
