// The metrics of a training by their names: what they are called, which one opens, which two belong together.
(() => {
  const LABELS = {
    loss: "Loss",
    eval_loss: "Loss on rows held back",
    lr: "Learning rate",
    learning_rate: "Learning rate",
    grad_norm: "Gradient norm",
    tokens_per_second: "Tokens per second",
    acc: "Accuracy",
    ppl: "Perplexity",
  };
  const HELD_BACK_WORDS = ["eval", "val", "valid", "validation", "test"];
  const HELD_BACK = new RegExp(`^(${HELD_BACK_WORDS.join("|")})[_/]`);
  const label = (name) => LABELS[name] ?? name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");
  const isLoss = (name) => name.includes("loss");
  const bareName = (name) => name.replace(/^train[_/]/, "");
  // The template chooses in the same way: loss, else a training loss, else any loss, else the first by name.
  function mainOf(names) {
    const ours = names.filter((name) => !HELD_BACK.test(name)).sort();
    return (
      ["loss", "train_loss", "train/loss"].find((name) => names.includes(name)) ??
      ours.find(isLoss) ??
      ours[0] ??
      [...names].sort()[0] ??
      "loss"
    );
  }
  function partnerOf(name, names) {
    if (HELD_BACK.test(name)) return undefined;
    const bare = bareName(name);
    const wanted = ["_", "/"].flatMap((mark) => HELD_BACK_WORDS.map((word) => word + mark + bare));
    return wanted.find((one) => names.includes(one));
  }

  window.trainyard.metrics = { label, isLoss, mainOf, partnerOf };
})();
