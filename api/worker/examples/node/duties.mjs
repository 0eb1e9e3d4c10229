// What a conformance run asks of a worker; put your own work in its place.
import { setTimeout as pause } from "node:timers/promises";

// handle returns the last reply of a request; what it throws is a failure. say
// sends an event; signal is aborted by a cancel.
export async function handle(job, say, signal) {
  const text = job.body.toString();
  const ask = text.startsWith('{"do":') ? JSON.parse(text) : { do: "echo" };
  if (ask.do === "progress") {
    for (const step of [1, 2, 3]) await say({ type: "progress", content_type: "application/json", body: JSON.stringify({ step }) });
  }
  if (ask.do === "partial") {
    for (const body of ["one", "two", "three"]) await say({ type: "partial", content_type: "text/plain", body });
  }
  if (ask.do === "fail") throw new Error(ask.reason);
  if (ask.do === "retry" && String(job.attempt) === "1") return { type: "retry", error: "not now", delay: "1" };
  if (ask.ms) await pause(ask.ms, null, { signal });
  return { type: "final", content_type: job.content_type, body: ask.do === "echo" ? job.body : `attempt ${job.attempt}` };
}
