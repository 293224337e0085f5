// The page that assigns columns: shows the selects of the chosen target and what the first rows will look like.
(() => {
  const form = document.querySelector("form[data-mapping]");
  if (!form) return;
  const { sample } = JSON.parse(document.getElementById("mapping-data").textContent);
  const rows = form.querySelector("[data-mapping-rows]");
  const roles = { human: "user", gpt: "assistant", bot: "assistant", model: "assistant" };
  const optional = ["input", "system"];
  const words = (value) =>
    value === null || value === undefined ? "" : typeof value === "string" ? value : JSON.stringify(value);

  function turn(role, text) {
    const box = document.createElement("div");
    box.className = `turn ${role === "assistant" || role === "text" ? "learnt" : ""}`;
    const name = Object.assign(document.createElement("b"), { textContent: role });
    const said = document.createElement("p");
    said.textContent = text || "nothing in this row";
    if (!text) said.className = "quiet";
    box.append(name, said);
    return box;
  }
  function conversation(value) {
    let messages = value;
    if (typeof value === "string") {
      try {
        messages = JSON.parse(value);
      } catch {
        messages = null;
      }
    }
    if (!Array.isArray(messages)) return [turn("user", "This column does not hold a list of messages.")];
    return messages.map((message) => {
      const role = message.role || message.from || "user";
      return turn(roles[role] || role, words(message.content ?? message.value));
    });
  }
  function turns(target, row, column) {
    const at = (name) => words(row[column(name)]);
    const system = column("system") ? [turn("system", at("system"))] : [];
    if (target === "text") return [turn("text", at("text"))];
    if (target === "chat") return conversation(row[column("messages")]);
    if (target === "alpaca")
      return [
        ...system,
        turn("user", [at("instruction"), column("input") && at("input")].filter(Boolean).join("\n\n")),
        turn("assistant", at("output")),
      ];
    return [...system, turn("user", at("prompt")), turn("assistant", at("completion"))];
  }
  function show() {
    const target = form.elements.target.value;
    form.querySelectorAll("[data-target]").forEach((group) => {
      group.hidden = !group.dataset.target.split(" ").includes(target);
      group.querySelectorAll("select").forEach((select) => {
        select.disabled = group.hidden;
        select.required = !group.hidden && !optional.includes(select.name.replace("map_", ""));
      });
    });
    const column = (name) => {
      const select = form.elements[`map_${name}`];
      return select && !select.disabled ? select.value : "";
    };
    rows.replaceChildren(
      ...sample.map((row) => {
        const example = document.createElement("div");
        example.className = "example";
        example.append(...turns(target, row, column));
        return example;
      }),
    );
  }
  form.addEventListener("change", show);
  form.querySelector("[data-mapping-preview]").hidden = false;
  show();
})();
