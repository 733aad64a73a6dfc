// Cards are drawn anew when scenes come, go or move: the focus stays with the scene that had it.
(() => {
  let wanted = null;

  document.addEventListener("click", (event) => {
    const found = /^scene-(\d+)-(.+)$/.exec(event.target.closest("button")?.id ?? "");
    if (!found) return;
    const name = found[2];
    const moved = { up: -1, down: 1, duplicate: 1 }[name] ?? 0;
    wanted = { scene: Number(found[1]) + moved, name };
  });

  function button() {
    const { scene, name } = wanted;
    const opposite = { up: "down", down: "up", lock: "unlock", unlock: "lock" }[name];
    const ids = [`scene-${scene}-${name}`, `scene-${scene}-${opposite}`];
    return ids.map((id) => document.getElementById(id)).find(Boolean)
      ?? document.querySelector(`[id^="scene-${scene}-"], [id^="scene-${scene - 1}-"]`);
  }

  function refocus() {
    if (wanted) button()?.focus();
  }

  // Until the person goes on elsewhere.
  for (const event of ["keydown", "pointerdown"]) {
    document.addEventListener(event, () => { wanted = null; }, true);
  }

  // A moment later: cards come part by part.
  let later = 0;
  new MutationObserver(() => {
    clearTimeout(later);
    later = setTimeout(refocus, 60);
  }).observe(document.documentElement, { childList: true, subtree: true });
})();
