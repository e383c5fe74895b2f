"use strict";
// Replaces each part of the page that has changed, but not one that somebody is selecting text in or has focus in.
(() => {
  const live = document.getElementById("live");
  const waiting = new Map();
  const inUse = (part) => {
    const selection = document.getSelection();
    return part.contains(document.activeElement) ||
      (selection && !selection.isCollapsed && selection.containsNode(part, true));
  };
  const show = () => {
    for (const [id, html] of waiting) {
      const part = document.getElementById(id);
      if (part && inUse(part)) continue;
      if (part) part.innerHTML = html;
      waiting.delete(id);
    }
  };
  const say = (text) => { if (live.textContent !== text) live.textContent = text; };
  let source;
  const connect = () => {
    source = new EventSource("/events");
    source.onmessage = (event) => {
      const { id, html } = JSON.parse(event.data);
      waiting.set(id, html);
      show();
    };
    source.onopen = () => say("Live");
    source.onerror = () => {
      say("Not connected: trying again");
      if (source.readyState === EventSource.CLOSED) setTimeout(connect, 10000);
    };
  };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) source.close(); else connect();
  });
  connect();
  setInterval(show, 1000);
})();
