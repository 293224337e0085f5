// Places that cannot be chosen say why. `reasonOf(place)` answers a sentence for one that does not go with the rest of the
// form, or nothing; what the page itself has switched off stays so.
window.trainyard.blockPlaces = (form, reasonOf) => {
  form.querySelectorAll("[name=place]").forEach((place) => {
    place.dataset.never ??= String(place.disabled);
    const reason = reasonOf(place);
    place.disabled = place.dataset.never === "true" || Boolean(reason);
    if (place.disabled) place.checked = false;
    const blocked = place.closest(".choice").querySelector("[data-blocked]");
    blocked.hidden = !reason || place.dataset.never === "true";
    blocked.textContent = reason;
  });
  if (form.querySelector("[name=place]:checked")) return;
  const open = form.querySelector("[name=place]:not(:disabled)");
  if (open) open.checked = true;
};
