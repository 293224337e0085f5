// The log that follows: stays at the newest line until the reader scrolls up, keeps the page light, copies.
(() => {
  const KEPT_LINES = 5000;
  const MOST_WAITING = 1 << 20; // characters; a hidden page draws no frames while events go on

  window.trainyard.log = (panel) => {
    const lines = panel.querySelector("[data-log-lines]");
    const follow = panel.querySelector("[data-log-follow]");
    const jump = panel.querySelector("[data-log-jump]");
    let following = true;
    let missed = 0;
    let waiting = "";
    let frame = 0;

    function setFollowing(value) {
      following = value;
      follow.setAttribute("aria-pressed", String(value));
      follow.textContent = value ? "Following" : "Follow";
      if (value) {
        missed = 0;
        toNewest();
      }
      showJump();
    }
    function showJump() {
      jump.hidden = following;
      jump.querySelector("span").textContent = missed
        ? `${window.trainyard.format.number(missed)} new ${missed === 1 ? "line" : "lines"}`
        : "Newest";
    }
    const toNewest = () => {
      lines.scrollTop = lines.scrollHeight;
    };
    const atNewest = () => lines.scrollHeight - lines.scrollTop - lines.clientHeight < 24;

    function flush() {
      cancelAnimationFrame(frame);
      frame = 0;
      const text = waiting;
      waiting = "";
      panel.querySelector("[data-log-empty]")?.remove();
      lines.append(text);
      const all = lines.textContent.split("\n");
      if (all.length > KEPT_LINES + 500)
        lines.textContent = `… earlier lines are in the download\n${all.slice(-KEPT_LINES).join("\n")}`;
      if (following) toNewest();
      else {
        missed += text.split("\n").length - 1;
        showJump();
      }
    }

    lines.addEventListener(
      "scroll",
      () => {
        if (atNewest() !== following) setFollowing(atNewest());
      },
      { passive: true },
    );
    follow.addEventListener("click", () => setFollowing(!following));
    jump.addEventListener("click", () => {
      setFollowing(true);
      lines.focus();
    });
    const copy = panel.querySelector("[data-log-copy]");
    copy.addEventListener("click", () => window.trainyard.copy(lines.textContent, copy));
    copy.hidden = follow.hidden = false;
    setFollowing(true);

    return {
      append(text) {
        waiting += text;
        if (waiting.length > MOST_WAITING) flush();
        else if (!frame) frame = requestAnimationFrame(flush);
      },
    };
  };
})();
