"use strict";
// Renews the blocks of a page that have changed. Without this script each page works by itself.
(() => {
  const link = document.getElementById("link");
  const say = (text) => { if (link) link.textContent = text; };
  let source = null;

  // Replaces a block, and keeps what somebody has ticked, opened or typed in it.
  const renew = (place, html) => {
    const active = document.activeElement;
    if (active && place.contains(active) && /^(INPUT|SELECT|TEXTAREA)$/.test(active.tagName) && active.type !== "checkbox") return;
    const ticked = new Set([...place.querySelectorAll("input[type=checkbox]:checked")].map((box) => box.name + "=" + box.value));
    const open = new Set([...place.querySelectorAll("details[open][id]")].map((one) => one.id));
    const focus = active && place.contains(active) ? active.getAttribute("data-key") || active.getAttribute("href") : null;
    place.innerHTML = html;
    for (const box of place.querySelectorAll("input[type=checkbox]")) if (ticked.has(box.name + "=" + box.value)) box.checked = true;
    for (const one of place.querySelectorAll("details[id]")) if (open.has(one.id)) one.open = true;
    if (focus) { const again = [...place.querySelectorAll("[data-key],a[href]")].find((one) => (one.getAttribute("data-key") || one.getAttribute("href")) === focus); if (again) again.focus(); }
  };

  const start = () => {
    if (source || document.hidden || !document.querySelector("[data-live]")) return;
    source = new EventSource(location.pathname + location.search);
    source.addEventListener("open", () => say("live"));
    source.addEventListener("block", (event) => {
      const { name, html } = JSON.parse(event.data);
      const place = document.querySelector(`[data-live="${CSS.escape(name)}"]`);
      if (place) renew(place, html);
    });
    source.addEventListener("trouble", (event) => say("as of " + new Date().toLocaleTimeString() + ": " + JSON.parse(event.data).message));
    source.addEventListener("well", () => say("live"));
    source.addEventListener("error", () => say("no answer: tries again"));
  };
  const stop = () => { if (source) { source.close(); source = null; } };
  document.addEventListener("visibilitychange", () => (document.hidden ? stop() : start()));
  addEventListener("pagehide", stop);
  addEventListener("pageshow", start);
  start();

  document.addEventListener("submit", (event) => {
    const question = event.submitter?.dataset.confirm || event.target.dataset.confirm;
    if (question && !confirm(question)) event.preventDefault();
  });
  document.addEventListener("change", (event) => {
    if (!event.target.matches("[data-all]")) return;
    for (const box of document.getElementsByName(event.target.dataset.all)) box.checked = event.target.checked;
  });

  const theme = document.getElementById("theme");
  if (theme) {
    theme.hidden = false;
    theme.addEventListener("click", () => {
      const root = document.documentElement;
      const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
      document.cookie = "longshore_theme=" + root.dataset.theme + "; path=/; max-age=31536000; samesite=strict";
    });
  }
})();
