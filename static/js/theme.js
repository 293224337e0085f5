// Runs in <head> before the first paint: applies the member's choice of theme, or the system's when the choice is automatic.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const choice = () => {
    try {
      return localStorage.getItem("trainyard.theme") || "auto";
    } catch {
      return "auto";
    }
  };
  const apply = () => {
    const wanted = choice();
    const theme = wanted === "auto" ? (dark.matches ? "dark" : "light") : wanted;
    document.documentElement.setAttribute("data-bs-theme", theme);
    document.dispatchEvent(new CustomEvent("themechange", { detail: theme }));
  };
  dark.addEventListener("change", apply);
  apply();
  window.trainyard = {
    theme: {
      choice,
      choose(name) {
        try {
          localStorage.setItem("trainyard.theme", name);
        } catch {
          /* private window: the choice lasts for this page */
        }
        if (name !== choice())
          document.documentElement.setAttribute("data-bs-theme", name === "auto" ? "light" : name);
        else apply();
      },
    },
  };
})();
