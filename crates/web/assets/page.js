"use strict";
// Renews the blocks of a page that have changed. Without this script each page works by itself.
(() => {
  const link = document.getElementById("link");
  const say = (text) => { if (link) link.textContent = text; };
  let source = null;

  // What was said of an action is said once, and not again when the page is loaded anew.
  const here = new URL(location.href);
  if (here.searchParams.has("said")) {
    here.searchParams.delete("said");
    here.searchParams.delete("refused");
    here.searchParams.delete("mark");
    history.replaceState(null, "", here);
  }

  // Blocks that have come and are not shown yet, by name.
  const late = new Map();
  let pressed = false;

  // A block stays as it is while somebody types in it, presses something, or has selected text of it.
  const isHeld = (place) => {
    const active = document.activeElement, selection = getSelection();
    const types = active && place.contains(active) && /^(INPUT|SELECT|TEXTAREA)$/.test(active.tagName) && active.type !== "checkbox";
    return pressed || types || (selection && !selection.isCollapsed && place.contains(selection.anchorNode));
  };

  // By this an element is known again in a block that was renewed.
  const keyOf = (one) => one.getAttribute("href") || one.getAttribute("aria-label") || [one.tagName, one.name, one.textContent, ...(one.form ? new FormData(one.form).values() : [])].join("\n");

  const boxOf = (box) => box.name + "=" + box.value;

  // Replaces a block, and keeps what somebody has ticked, opened or scrolled in it, and the focus.
  // Returns false where something is ticked that would go with it: then it stays as it is.
  const renew = (place, html) => {
    const active = document.activeElement, fresh = document.createElement("template");
    fresh.innerHTML = html;
    const ticked = new Set([...place.querySelectorAll("input[type=checkbox]:checked")].map(boxOf));
    const there = new Set([...fresh.content.querySelectorAll("input[type=checkbox]")].map(boxOf));
    if ([...ticked].some((box) => !there.has(box))) return false;
    const scrolled = [...place.querySelectorAll("pre")].map((one) => one.scrollTop);
    const open = new Set([...place.querySelectorAll("details[open][id]")].map((one) => one.id));
    const focus = active && active !== place && place.contains(active) ? keyOf(active) : null;
    place.replaceChildren(fresh.content);
    for (const box of place.querySelectorAll("input[type=checkbox]")) if (ticked.has(boxOf(box))) box.checked = true;
    for (const one of place.querySelectorAll("details[id]")) if (open.has(one.id)) one.open = true;
    [...place.querySelectorAll("pre")].forEach((one, nth) => { if (scrolled[nth]) one.scrollTop = scrolled[nth]; });
    if (focus) [...place.querySelectorAll("a[href],button,input,summary,pre")].find((one) => keyOf(one) === focus)?.focus({ preventScroll: true });
    return true;
  };

  const show = () => {
    for (const [name, html] of late) {
      const place = document.querySelector(`[data-live="${CSS.escape(name)}"]`);
      if (place && isHeld(place)) continue;
      if (!place || renew(place, html)) late.delete(name);
    }
  };
  // After what the event does: a click follows the release of a button.
  const showSoon = () => setTimeout(show);
  addEventListener("pointerdown", () => { pressed = true; });
  for (const end of ["pointerup", "pointercancel", "dragend", "blur"]) addEventListener(end, () => { pressed = false; showSoon(); });
  document.addEventListener("focusout", showSoon);
  document.addEventListener("selectionchange", showSoon);

  // Time after which a server that refused a stream is asked again; longer each time.
  const FIRST = 10000, LONGEST = 120000;
  let pause = FIRST, again = null;

  const start = () => {
    clearTimeout(again);
    if (source || document.hidden || !document.querySelector("[data-live]")) return;
    source = new EventSource(location.pathname + location.search);
    source.addEventListener("open", () => { pause = FIRST; say("live"); });
    source.addEventListener("block", (event) => {
      const { name, html } = JSON.parse(event.data);
      late.set(name, html);
      show();
    });
    source.addEventListener("trouble", (event) => say("as of " + new Date().toLocaleTimeString() + ": " + JSON.parse(event.data).message));
    source.addEventListener("well", () => say("live"));
    source.addEventListener("error", () => {
      if (source?.readyState !== EventSource.CLOSED) return say("no answer: tries again");
      // A browser gives a stream up for good that was refused, or is none.
      source = null;
      say("no answer: tries again in " + Math.round(pause / 1000) + " s");
      again = setTimeout(start, pause);
      pause = Math.min(pause * 2, LONGEST);
    });
  };
  const stop = () => { clearTimeout(again); if (source) { source.close(); source = null; } };
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
  document.addEventListener("change", showSoon);

  // Suggestions are for the last term of a search line: the terms before it stay.
  const known = document.querySelector("datalist#known");
  if (known) {
    const terms = [...known.options].map((option) => option.value);
    document.querySelector("[list=known]").addEventListener("input", (event) => {
      const before = event.target.value.slice(0, event.target.value.lastIndexOf(" ") + 1);
      if (before !== known.dataset.before) [...known.options].forEach((option, place) => { option.value = before + terms[place]; });
      known.dataset.before = before;
    });
  }

  // Keys: one by itself, or g and then the letter of a page. Never while something is typed.
  const keys = document.getElementById("keys"), help = document.getElementById("show-keys");
  const placeOf = (letter) => document.querySelector(`a[data-go="${CSS.escape(letter)}"]`);
  let goes = 0;
  const search = () => {
    const line = document.getElementById("q") || document.querySelector("main input[type=search]");
    if (line) { line.focus(); line.select(); } else if (placeOf("t")) location.href = "/tasks#q";
  };
  const press = (key) => {
    const button = document.querySelector(`button[data-key="${key}"]`);
    // One press of a key is less than a click: where the button asks nothing, this does.
    if (button && (button.dataset.confirm || confirm(button.textContent + "?"))) button.click();
    return button;
  };
  document.addEventListener("keydown", (event) => {
    const { key, target } = event;
    const types = target.isContentEditable || target.matches?.("textarea, select, input:not([type=checkbox])");
    if (types || event.ctrlKey || event.altKey || event.metaKey || event.repeat || document.querySelector("dialog[open]")) return;
    const after = goes > Date.now();
    goes = 0;
    if (after && placeOf(key)) placeOf(key).click();
    else if (key === "g") goes = Date.now() + 1500;
    else if (key === "/") search();
    else if (key === "?") keys?.showModal();
    else if (!(/^[rc]$/.test(key) && press(key))) return;
    event.preventDefault();
  });
  if (help && keys) {
    help.hidden = false;
    help.addEventListener("click", () => keys.showModal());
  }
  if (location.hash === "#q") search();

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
