// The console's only script. Pages are whole without it: here they are looked at again when something has changed, and
// a log is shown as it comes.
"use strict";

(() => {
  // On a narrow screen the menu scrolls: where one is, is in sight.
  const menu = document.querySelector(".top nav ul");
  const here = menu?.querySelector("[aria-current]");
  if (here) menu.scrollLeft = here.offsetLeft - menu.offsetLeft - (menu.clientWidth - here.offsetWidth) / 2;

  const address = document.body.dataset.live;
  if (!address || !window.EventSource) return;

  const GATHER_MS = 300;
  const RECONNECT_MS = 5000;
  const MAX_LOG_CHARACTERS = 512 * 1024;
  const state = document.getElementById("live");
  const say = (text) => { if (state) state.textContent = text; };

  // Parts have an id: the one in the page is replaced by the one in the answer.
  const replace = (old, part) => {
    if (old.outerHTML === part.outerHTML) return;
    for (const open of old.querySelectorAll("details[open][id]")) {
      const same = part.querySelector("#" + CSS.escape(open.id));
      if (same) same.open = true;
    }
    if (old.tagName === "DETAILS") part.open = old.open;
    const focused = old.contains(document.activeElement) ? document.activeElement.id || old.id : null;
    const scrolled = old.scrollLeft;
    old.replaceWith(document.adoptNode(part));
    part.scrollLeft = scrolled;
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  };

  // Where there are new parts, all of the page is: but for the log as it came, until the whole of it is there.
  const begin = (fresh) => {
    const main = document.adoptNode(fresh.getElementById("main"));
    const [log, stored] = [document.getElementById("log"), main.querySelector("#log")];
    if (log?.textContent && stored && !stored.textContent) stored.replaceWith(log);
    if (state) main.querySelector("#live")?.replaceWith(state);
    document.getElementById("main").replaceChildren(...main.childNodes);
  };

  const show = (fresh) => {
    const parts = [...fresh.querySelectorAll("[data-part][id]")];
    if (parts.every((part) => document.getElementById(part.id))) {
      for (const part of parts) {
        const old = document.getElementById(part.id);
        if (old) replace(old, part);
      }
      // The log as it is kept, or that there is none.
      const log = fresh.getElementById("log-part");
      const kept = log?.querySelector("#log");
      if (log && (!kept || kept.textContent)) replace(document.getElementById("log-part"), log);
    } else {
      begin(fresh);
    }
    // There is nothing more to come.
    if (!fresh.body.dataset.live) stop();
  };

  let looking = false;
  let again = false;
  const look = async () => {
    if (looking) { again = true; return; }
    looking = true;
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" }, cache: "no-store" });
      // The session has ended.
      if (answer.redirected) { location.assign(answer.url); return; }
      if (answer.ok) show(new DOMParser().parseFromString(await answer.text(), "text/html"));
    } catch {
      say("not reachable");
    } finally {
      looking = false;
    }
    if (again) { again = false; soon(); }
  };

  let timer = 0;
  const soon = () => {
    if (document.hidden) { again = true; return; }
    clearTimeout(timer);
    timer = setTimeout(look, GATHER_MS);
  };
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && again) { again = false; soon(); }
  });

  let characters = 0;
  const append = (text) => {
    const log = document.getElementById("log");
    if (!log) return;
    const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    const line = text.endsWith("\n") ? text : text + "\n";
    log.append(line);
    characters += line.length;
    while (characters > MAX_LOG_CHARACTERS && log.childNodes.length > 1) {
      characters -= log.firstChild.textContent.length;
      log.firstChild.remove();
    }
    if (follows) log.scrollTop = log.scrollHeight;
  };

  let events;
  let ended = false;
  let reconnect = 0;
  // The last part of a log that was shown, where those that write it count.
  let after = "";
  const stop = () => {
    ended = true;
    clearTimeout(reconnect);
    events.close();
    say("ended");
  };
  const connect = () => {
    // On the way back to a page, two may want to.
    events?.close();
    events = new EventSource(after ? `${address}?after=${encodeURIComponent(after)}` : address);
    events.addEventListener("open", () => say("live"));
    events.addEventListener("error", () => {
      if (ended) return;
      say("reconnecting");
      // After an answer that is no stream of events a browser doesn't ask again: we do, as the gateway may be back. And
      // we look again: where the session has ended, that leads to the log-in.
      if (events.readyState !== EventSource.CLOSED) return;
      clearTimeout(reconnect);
      reconnect = setTimeout(() => { connect(); soon(); }, RECONNECT_MS);
    });
    events.addEventListener("changed", soon);
    events.addEventListener("log", (event) => {
      // A line of a worker that does not count has none.
      if (event.lastEventId) after = event.lastEventId;
      append(JSON.parse(event.data));
    });
    events.addEventListener("end", () => {
      stop();
      soon();
    });
  };
  const beginAgain = () => {
    clearTimeout(reconnect);
    connect();
    soon();
  };
  // A page that is left may be kept, for the way back. Its stream must not be: a browser has six connections to a server,
  // and after six such pages none would be left for the next one. When it is hidden it is too late for that.
  const leave = () => {
    if (ended) return;
    events.close();
    clearTimeout(reconnect);
    // Where it is not left after all, as for a file that is saved.
    reconnect = setTimeout(beginAgain, RECONNECT_MS);
  };
  addEventListener("beforeunload", leave);
  addEventListener("pagehide", leave);
  addEventListener("pageshow", (event) => { if (event.persisted && !ended) beginAgain(); });
  connect();
})();
