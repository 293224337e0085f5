// The upload page: sends the chosen file in pieces, shows how far it is, and goes on where it stopped, also after a reload.
(() => {
  const form = document.querySelector("form[data-upload]");
  if (!form) return;
  const { format, icon, say } = window.trainyard;
  const part = (name) => form.querySelector(`[data-upload-${name}]`);
  const input = form.querySelector("#file");
  const drop = form.querySelector("[data-drop]");
  const hidden = part("id");
  const limit = Number(form.dataset.limit);
  const HASH_UP_TO = 64 * 1024 * 1024;
  let upload = null; // what is on its way: file, id, offset, chunk, state, samples, request
  let submitWhenDone = false;

  // --- Uploads begun earlier, so that choosing the same file again goes on ---
  const keyOf = (file) => `${file.name} ${file.size} ${file.lastModified}`;
  function begun() {
    try {
      return JSON.parse(localStorage.getItem("trainyard.uploads")) || {};
    } catch {
      return {};
    }
  }
  function remember(file, { id, chunk_bytes: chunk }) {
    const entries = Object.entries({ ...begun(), [keyOf(file)]: { id, chunk } }).slice(-20);
    try {
      localStorage.setItem("trainyard.uploads", JSON.stringify(Object.fromEntries(entries)));
    } catch {
      /* not kept in a private window */
    }
  }
  function forget(file) {
    const { [keyOf(file)]: _, ...rest } = begun();
    try {
      localStorage.setItem("trainyard.uploads", JSON.stringify(rest));
    } catch {
      /* nothing was kept */
    }
  }

  // --- What the member sees ---
  const states = {
    reading: ["loader-2", "Reading the file", ""],
    sending: ["upload", "Uploading", "go"],
    paused: ["player-pause", "Paused", "wait"],
    waiting: ["clock", "Waiting for the connection", "wait"],
    done: ["circle-check", "Uploaded", "go"],
  };
  function show(state) {
    upload.state = state;
    const [symbol, words, tone] = states[state];
    const mark = part("state");
    mark.className = `state ${tone}`;
    mark.replaceChildren(icon(symbol), words);
    const pause = part("pause");
    pause.hidden = state === "done" || state === "reading";
    pause.textContent = state === "sending" ? "Pause" : "Resume";
    if (state !== "sending") say(words);
    figures(upload.offset);
  }
  function figures(sent) {
    const { file, samples, state } = upload;
    part("bar").max = file.size;
    part("bar").value = sent;
    const words = [
      state === "done" ? format.bytes(file.size) : `${format.bytes(sent)} of ${format.bytes(file.size)}`,
    ];
    const [first, last] = [samples[0], samples[samples.length - 1]];
    if (state === "sending" && last && last.at - first.at > 500) {
      const speed = (last.sent - first.sent) / ((last.at - first.at) / 1000);
      if (speed > 0) words.push(`${format.bytes(speed)}/s`, `${format.duration((file.size - sent) / speed)} left`);
    }
    part("figures").textContent = words.join(" · ");
  }
  function measure(sent) {
    upload.samples.push({ at: performance.now(), sent });
    while (upload.samples.length > 2 && upload.samples[upload.samples.length - 1].at - upload.samples[0].at > 6000)
      upload.samples.shift();
    figures(sent);
  }
  function refuse(sentence, link) {
    const wrong = part("wrong");
    wrong.replaceChildren(
      icon("alert-circle"),
      Object.assign(document.createElement("span"), { textContent: sentence }),
    );
    if (link)
      wrong.lastChild.append(
        " ",
        Object.assign(document.createElement("a"), { href: form.dataset.pricing, textContent: "See the plans" }),
      );
    wrong.hidden = false;
    submitWhenDone = false;
    part("wait").textContent = "";
  }
  function reset() {
    upload?.request?.abort();
    upload = null;
    submitWhenDone = false;
    part("wait").textContent = "";
    part("panel").hidden = true;
    drop.hidden = false;
    input.disabled = false;
    input.value = "";
    hidden.disabled = true;
    hidden.value = "";
  }

  // --- The wire ---
  async function answerOf(response) {
    const body = await response.json().catch(() => ({}));
    if (response.ok) return body;
    const { message, fields } = body.error || {};
    const error = new Error(
      Object.values(fields || {})[0] || message || `The server answered ${response.status}. Try again in a minute.`,
    );
    error.final = response.status < 500 && response.status !== 429;
    throw error;
  }
  async function sha256(file) {
    if (file.size > HASH_UP_TO || !window.crypto?.subtle) return null;
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await file.arrayBuffer()));
    return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  }
  async function create(file) {
    const body = JSON.stringify({ name: file.name, size: file.size, sha256: await sha256(file) });
    const made = await answerOf(
      await fetch("/api/uploads", { method: "POST", headers: { "Content-Type": "application/json" }, body }),
    );
    remember(file, made);
    return made;
  }
  // The offset the server stands at, or null when it no longer knows this upload.
  async function offsetOf(id) {
    const response = await fetch(`/api/uploads/${id}`, { method: "HEAD" });
    if ([404, 409, 410].includes(response.status)) return null;
    if (!response.ok) throw new Error(`The server answered ${response.status}.`);
    return Number(response.headers.get("Upload-Offset"));
  }
  function send(current) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      current.request = request;
      request.open("PATCH", `/api/uploads/${current.id}`);
      request.setRequestHeader("Content-Type", "application/octet-stream");
      request.setRequestHeader("Upload-Offset", current.offset);
      request.upload.onprogress = (event) => {
        if (upload === current && current.state === "sending") measure(current.offset + event.loaded);
      };
      request.onload = () => {
        const offset = Number(request.getResponseHeader("Upload-Offset"));
        if (request.status === 204 || request.status === 409) {
          resolve(offset);
          return;
        }
        let said = null;
        try {
          said = JSON.parse(request.responseText).error.message;
        } catch {
          /* no sentence in the answer */
        }
        const error = new Error(said || `The server answered ${request.status}. Try again in a minute.`);
        error.gone = request.status === 404;
        error.final = request.status < 500 && request.status !== 429 && !error.gone;
        reject(error);
      };
      request.onerror = () => reject(new Error("The connection broke."));
      request.onabort = () => reject(Object.assign(new Error("Paused."), { aborted: true }));
      request.send(current.file.slice(current.offset, current.offset + current.chunk));
    });
  }
  const rest = (milliseconds) =>
    new Promise((resolve) => {
      const timer = setTimeout(done, milliseconds);
      function done() {
        clearTimeout(timer);
        removeEventListener("online", done);
        resolve();
      }
      addEventListener("online", done);
    });

  async function open(current) {
    const known = current.id ? current : begun()[keyOf(current.file)];
    const offset = known ? await offsetOf(known.id) : null;
    if (offset !== null) Object.assign(current, { id: known.id, chunk: known.chunk, offset });
    else {
      const made = await create(current.file);
      Object.assign(current, { id: made.id, chunk: made.chunk_bytes, offset: made.offset });
    }
  }
  // Sends until the end, through lost connections and restarts of the server; ends quietly when paused or replaced.
  async function run(current) {
    let patience = 1000;
    while (upload === current && current.state !== "paused") {
      try {
        await open(current);
        if (upload !== current || current.state === "paused") return;
        current.samples = [];
        show("sending");
        while (current.offset < current.file.size) {
          current.offset = await send(current);
          patience = 1000;
          measure(current.offset);
        }
        await answerOf(await fetch(`/api/uploads/${current.id}/complete`, { method: "POST" }));
        finish(current);
        return;
      } catch (error) {
        if (error.aborted || upload !== current) return;
        if (error.gone) {
          forget(current.file);
          current.id = null;
        }
        if (error.final) {
          forget(current.file);
          reset();
          refuse(error.message);
          return;
        }
        show("waiting");
        await rest(patience);
        patience = Math.min(patience * 2, 15000);
      }
    }
  }
  function finish(current) {
    hidden.value = current.id;
    hidden.disabled = false;
    input.disabled = true;
    show("done");
    if (submitWhenDone) form.requestSubmit();
  }
  function begin(file) {
    part("wrong").hidden = true;
    if (file.size === 0) {
      reset();
      refuse(`${file.name} is empty. Choose a file with at least one row.`);
      return;
    }
    if (file.size > limit) {
      reset();
      refuse(
        `${file.name} has ${format.bytes(file.size)}; your plan allows ${format.bytes(limit)} in one upload.`,
        true,
      );
      return;
    }
    upload = { file, id: null, offset: 0, chunk: 0, state: "reading", samples: [], request: null };
    part("name").textContent = file.name;
    part("panel").hidden = false;
    drop.hidden = true;
    const script = form.querySelector("[name=kind][value=script]");
    if (script && /\.zip$/i.test(file.name)) script.checked = true;
    const name = form.querySelector("#name");
    if (!name.value)
      name.value = file.name
        .replace(/\.[a-z]+$/i, "")
        .replace(/[-_]+/g, " ")
        .slice(0, 120);
    show("reading");
    run(upload);
  }

  // --- What the member does ---
  form.querySelector(".drop-hint").hidden = false;
  input.addEventListener("change", () => {
    if (input.files[0]) begin(input.files[0]);
  });
  for (const name of ["dragenter", "dragover"])
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files[0]) begin(event.dataTransfer.files[0]);
  });
  part("pause").addEventListener("click", () => {
    if (upload.state === "sending") {
      show("paused");
      upload.request?.abort();
      return;
    }
    upload = { ...upload, request: null };
    show("sending");
    run(upload);
  });
  part("other").addEventListener("click", () => {
    reset();
    input.focus();
  });
  form.addEventListener("submit", (event) => {
    if (!upload) return;
    if (upload.state === "done") {
      forget(upload.file); // from here on the upload belongs to the data set
      return;
    }
    event.preventDefault();
    submitWhenDone = true;
    part("wait").textContent =
      upload.state === "paused"
        ? "The upload is paused. Resume it, and the file is added when it has arrived."
        : "The file is added as soon as it has arrived.";
  });
})();
