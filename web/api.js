// What the page asks of the gateway: nothing else leaves this origin.

const KEY = "coatcheck.key"; // of sessionStorage: gone with the tab
const HISTORY = "coatcheck.history";
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
 * itself with Last-Event-ID; the outcome ends the stream.
 */
export function follow(/** @type {string} */ id, /** @type {(kind: string, data: any) => void} */ seen) {
  let source = /** @type {EventSource | null} */ (null);
  let over = false;
  const path = `/v1/requests/${id}/events`;
  const open = async () => {
    let query = "";
    if (key.get()) { // an EventSource can't send headers
      try {
        query = "?ticket=" + encodeURIComponent((await call(`/v1/requests/${id}/stream-ticket`, { method: "POST" })).ticket);
      } catch (problem) {
        seen("problem", problem);
        return;
      }
    }
    if (over) return;
    source = new EventSource(path + query);
    for (const kind of ["status", "progress", "partial", "reset", "outcome"]) {
      source.addEventListener(kind, (event) => {
        seen(kind, JSON.parse(/** @type {MessageEvent} */ (event).data));
        if (kind === "outcome") stop();
      });
    }
  };
  const stop = () => { over = true; source?.close(); };
  open();
  return stop;
}

/** The requests that were submitted from this browser, newest first. */
export const history = {
  /** @returns {{id: string, service: string, at: string}[]} */
  all: () => {
    try { return JSON.parse(localStorage.getItem(HISTORY) ?? "[]"); } catch { return []; }
  },
  add(/** @type {{id: string, service: string, at: string}} */ entry) {
    localStorage.setItem(HISTORY, JSON.stringify([entry, ...this.all().filter((e) => e.id !== entry.id)].slice(0, KEPT)));
  },
};
