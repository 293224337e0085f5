// What a machine told of itself over a job, as columns that are all as long as `at`: past readings in one piece, new ones
// one by one. js/machine.js draws them.
(() => {
  const MOST_POINTS = 1400;

  // One column for each figure, `gpu 0 percent` for those of the devices; all as long as `at`.
  window.trainyard.readings = () => {
    let at = [];
    let columns = new Map();
    let gpus = [];
    const column = (name) => {
      if (!columns.has(name)) columns.set(name, Array(at.length).fill(null));
      return columns.get(name);
    };
    return {
      get at() {
        return at;
      },
      get gpus() {
        return gpus;
      },
      column: (name) => columns.get(name),
      // One value for all devices at each reading: `fold` gets those that were told.
      folded(figure, fold) {
        const told = gpus.map((_, i) => columns.get(`gpu ${i} ${figure}`)).filter(Boolean);
        return at.map((_, index) => {
          const values = told.map((values) => values[index]).filter((value) => value !== null);
          return values.length ? fold(values) : null;
        });
      },
      load(told) {
        at = [...told.at];
        columns = new Map(Object.entries(told.figures).map(([name, values]) => [name, [...values]]));
        gpus = told.gpus.map((gpu) => gpu.name);
        told.gpus.forEach((gpu, i) => {
          for (const [name, values] of Object.entries(gpu))
            if (name !== "name") columns.set(`gpu ${i} ${name}`, [...values]);
        });
      },
      add(seconds, data) {
        if (at.length && seconds <= at[at.length - 1] + 0.05) return false;
        const flat = Object.entries(data).filter(([name]) => name !== "gpus" && name !== "kind");
        (data.gpus || []).forEach((gpu, i) => {
          gpus[i] ??= gpu.name;
          flat.push(...Object.entries(gpu).map(([name, value]) => [`gpu ${i} ${name}`, value]));
        });
        for (const [name, value] of flat) if (Number.isFinite(value)) column(name);
        at.push(seconds);
        const fresh = new Map(flat);
        for (const [name, values] of columns) values.push(Number.isFinite(fresh.get(name)) ? fresh.get(name) : null);
        if (at.length > MOST_POINTS) this.thin();
        return true;
      },
      thin() {
        const keep = (_, i) => i % 2 === 1 || i === at.length - 1;
        for (const [name, values] of columns) columns.set(name, values.filter(keep));
        at = at.filter(keep);
      },
    };
  };
})();
