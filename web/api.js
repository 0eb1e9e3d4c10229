// What the page asks of the gateway: nothing else leaves this origin.

const KEY = "coatcheck.key"; // of sessionStorage: gone with the tab
const HISTORY = "coatcheck.history";
const PAUSE = 1000; // ms before a stream is asked for again, and as much jitter
const KEPT = 50; // requests remembered in this browser

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (/** @type {string} */ value) => sessionStorage.setItem(KEY, value),
};

/** A problem document (RFC 9457) as an error. */
export class Problem extends Error {
  constructor(/** @type {any} */ document) {
    super(document.title ?? "The gateway can't be reached");
    this.status = document.status ?? 0;
    this.detail = document.detail ?? "It may be restarting. What was accepted stays accepted; try again in a moment.";
  }
}

/** Calls the gateway and reads a JSON answer; throws a Problem. */
export async function call(/** @type {string} */ path, /** @type {RequestInit} */ init = {}) {
  const headers = new Headers(init.headers);
  if (key.get()) headers.set("Authorization", "Bearer " + key.get());
  let response;
  try {
    response = await fetch(path, { ...init, headers });
  } catch {
    throw new Problem({});
  }
  const document = await response.json().catch(() => ({}));
  if (!response.ok) throw new Problem(document);
  return document;
}

/**
 * Follows the events of a request; returns how to stop. The browser resumes by
 * itself with Last-Event-ID, or, where it gave up, the page does; the outcome
 * ends the stream, and so does a problem that trying again won't mend. Beside the events, "online" tells whether it is connected.
 */
export function follow(/** @type {string} */ id, /** @type {(kind: string, data: any) => void} */ seen) {
  let source = /** @type {EventSource | null} */ (null);
  let over = false;
  let last = 0; // number of the last event seen
  const path = `/v1/requests/${id}/events`;
  const open = async () => {
    let query = "?redact=true&last_event_id=" + last;
    if (key.get()) { // an EventSource can't send headers
      try {
        query += "&ticket=" + encodeURIComponent((await call(`/v1/requests/${id}/stream-ticket`, { method: "POST" })).ticket);
      } catch (problem) {
        if (/** @type {Problem} */ (problem).status >= 500 || !(/** @type {Problem} */ (problem).status)) return again();
        seen("problem", problem);
        return;
      }
    }
    if (over) return;
    source = new EventSource(path + query);
    source.onopen = () => seen("online", true);
    source.onerror = () => {
      if (over) return;
      seen("online", false);
      if (source?.readyState === EventSource.CLOSED) again(); // an error status ends a browser's own tries
    };
    for (const kind of ["status", "progress", "partial", "reset", "outcome"]) {
      source.addEventListener(kind, (event) => {
        const { data, lastEventId } = /** @type {MessageEvent} */ (event);
        if (lastEventId) last = Number(lastEventId);
        seen(kind, JSON.parse(data));
        if (kind === "outcome") stop();
      });
    }
  };
  const again = () => {
    source?.close();
    setTimeout(async () => {
      if (over) return;
      try { // an EventSource does not tell why it was refused; a request that is gone stays so
        await call(`/v1/requests/${id}?redact=true`);
      } catch (problem) {
        const { status } = /** @type {Problem} */ (problem);
        if (!status || status >= 500 || status === 429) return again();
        seen("problem", problem);
        return;
      }
      open();
    }, PAUSE * (1 + Math.random()));
  };
  const stop = () => { over = true; source?.close(); };
  open();
  return stop;
}

/** @typedef {{id: string, service: string, at: string}} Entry */

/** The requests that were submitted from this browser, newest first. */
export const history = {
  /** @returns {Entry[]} */
  all: () => {
    try { return JSON.parse(localStorage.getItem(HISTORY) ?? "[]"); } catch { return []; }
  },
  add(/** @type {Entry} */ entry) {
    localStorage.setItem(HISTORY, JSON.stringify([entry, ...this.all().filter((e) => e.id !== entry.id)].slice(0, KEPT)));
  },
};
