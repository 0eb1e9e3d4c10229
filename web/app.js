// The page: submit to a service, watch it live, find it again after a reload.
import { h, render } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import htm from "htm";
import { call, follow, history, key, Problem } from "./api.js";

const html = htm.bind(h);

/**
 * What to try each demo service with.
 * @type {Record<string, string>}
 */
const examples = {
  echo: "hello", upper: "hello", sleep: '{"for":"3s"}', progress: '{"steps":8,"interval":"400ms"}',
  flaky: '{"fail_times":2}', fail: '{"message":"as asked"}',
};

const clock = (/** @type {string} */ at) => new Date(at).toLocaleTimeString(undefined, { hour12: false }) + "." + at.slice(20, 23);
const shown = (/** @type {any} */ body) => (body === undefined ? "" : typeof body === "string" ? body : JSON.stringify(body));
const said = (/** @type {any} */ e) => [e.service, e.status, e.error?.message, shown(e.body)].filter(Boolean).join(" "); // service and status: of a scatter

/** @typedef {{message: string, detail: string}} Said */

function Complaint(/** @type {{problem: Said | null}} */ { problem }) {
  return problem && html`<div class="problem" role="alert"><strong>${problem.message}</strong>${problem.detail}</div>`;
}

function Submit(/** @type {{submitted: (status: any) => void, unlocked: () => void}} */ { submitted, unlocked }) {
  const [services, setServices] = useState(/** @type {{name: string, paused_at?: string}[]} */ ([]));
  const [wanted, setService] = useState("progress");
  const [typed, setBody] = useState(/** @type {string | null} */ (null)); // null: the example of the service
  const [problem, setProblem] = useState(/** @type {Problem | null} */ (null));
  const [refused, setRefused] = useState(/** @type {Problem | null} */ (null)); // of the list, apart from the submit's
  const load = () => call("/v1/services").then(
    (list) => { setServices(list.services); setRefused(null); }, setRefused);
  useEffect(() => { // a worker that comes later brings its services
    load();
    const timer = setInterval(load, 3000);
    return () => clearInterval(timer);
  }, []);

  const known = services.length ? services : [{ name: wanted }];
  const service = (known.find((s) => s.name === wanted) ?? known[0]).name; // what is shown is what is submitted to
  const body = typed ?? examples[service] ?? "";
  const choose = (/** @type {any} */ event) => {
    setService(event.target.value);
    setBody(null);
  };
  const submit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    try {
      const type = /^\s*[{[]/.test(body) ? "application/json" : "text/plain";
      const status = await call(`/v1/services/${encodeURIComponent(service)}/requests`,
        { method: "POST", body, headers: { "Content-Type": type, "Idempotency-Key": crypto.randomUUID?.() ?? String(Math.random()).slice(2) } });
      setProblem(null);
      submitted(status);
    } catch (failure) {
      setProblem(/** @type {Problem} */ (failure));
    }
  };
  return html`
    <section>
      <h2>Submit a request</h2>
      <form onSubmit=${submit}>
        <label>Service
          <select id="service" value=${service} onChange=${choose}>
            ${known.map((s) => html`<option value=${s.name} selected=${s.name === service}>${s.name}${s.paused_at ? " (paused)" : ""}</option>`)}
          </select>
        </label>
        <label>Body <textarea id="body" value=${body} spellcheck=${false} onInput=${(/** @type {any} */ e) => setBody(e.target.value)}></textarea></label>
        ${(problem ?? refused)?.status === 401 && html`
          <label>API key <input type="password" autocomplete="off" onChange=${(/** @type {any} */ e) => { key.set(e.target.value); load(); unlocked(); }} /></label>`}
        <button>Submit</button>
      </form>
      <${Complaint} problem=${problem ?? refused} />
    </section>`;
}

function History(/** @type {{entries: import("./api.js").Entry[], current: string | undefined}} */ { entries, current }) {
  return html`
    <section>
      <h2>From this browser</h2>
      ${entries.length === 0 ? html`<p class="empty">What you submit here is listed, also after a reload.</p>` : html`
        <ul class="history">${entries.map((e) => html`
          <li key=${e.id}><a href=${"#/requests/" + e.id} aria-current=${e.id === current ? "true" : undefined}>
            <span>${e.service}</span><time class="mono">${clock(e.at)}</time></a></li>`)}
        </ul>`}
    </section>`;
}

function Request(/** @type {{id: string}} */ { id }) {
  const [status, setStatus] = useState(/** @type {any} */ (null));
  const [events, setEvents] = useState(/** @type {any[]} */ ([]));
  const [problem, setProblem] = useState(/** @type {Problem | null} */ (null));
  const [online, setOnline] = useState(true);
  const list = useRef(/** @type {HTMLElement | null} */ (null));
  const atEnd = useRef(true); // until somebody scrolls back
  useEffect(() => {
    setStatus(null); setEvents([]); setProblem(null);
    let stop = () => {};
    let left = false;
    call(`/v1/requests/${id}?redact=true`).then((known) => {
      if (left) return;
      setStatus(known);
      stop = follow(id, (kind, data) => {
        if (kind === "status" || kind === "outcome") setStatus(data);
        else if (kind === "problem") setProblem(data);
        else if (kind === "online") setOnline(data);
        else if (kind !== "reset") setEvents((before) => [...before, data]);
      });
    }, (failure) => { if (!left) setProblem(failure); });
    return () => { left = true; stop(); };
  }, [id]);
  useEffect(() => { // on a phone it is below the form
    if (status && matchMedia("(max-width: 48rem)").matches) document.getElementById("request")?.scrollIntoView();
  }, [id, !status]);

  useEffect(() => { // the newest is in view
    if (list.current && atEnd.current) list.current.scrollTop = list.current.scrollHeight;
  }, [events.length]);

  if (problem) return html`<section><h2 class="mono">${id}</h2><${Complaint} problem=${problem} /></section>`;
  if (!status) return html`<section><p class="empty">Reading ${id} …</p></section>`;
  const percent = events.findLast((e) => e.body?.percent !== undefined)?.body.percent;
  const cancel = () => call(status.links.cancel, { method: "POST" }).then(setStatus, setProblem);
  const legs = status.scatter?.legs;
  const end = (/** @type {any} */ e) => { atEnd.current = e.target.scrollHeight - e.target.scrollTop - e.target.clientHeight < 8; };
  const took = status.finished_at && (Date.parse(status.finished_at) - Date.parse(status.created_at)) / 1000;
  return html`
    <section>
      <div class="head">
        <span class=${"badge " + status.status} role="status" aria-live="polite" id="status">${status.status}</span>
        <strong>${legs ? `scatter: ${status.scatter.succeeded} of ${legs.length} succeeded, ${status.scatter.min_replies} needed` : status.service}</strong>
        ${status.scheduled_for && status.status === "scheduled" && html`<span>until ${new Date(status.scheduled_for).toLocaleString(undefined, { hour12: false })}</span>`}
        ${status.priority && html`<span>${status.priority} priority</span>`}
        ${status.cache && status.cache !== "miss" && html`<span>${status.cache === "hit" ? "from the cache" : "shares a run"}</span>`}
        ${status.attempt > 1 && html`<span>attempt ${status.attempt}</span>`}
        ${took !== undefined && html`<span>${took.toFixed(2)} s</span>`}
        <span class="mono">${id}</span>
        ${!status.finished_at && html`<button class="quiet" onClick=${cancel}>Cancel</button>`}
      </div>
      ${!online && !status.finished_at && html`<p class="offline" role="status">Not connected to the gateway; trying again. The request goes on.</p>`}
      ${percent !== undefined && html`<progress max="100" value=${percent} aria-label="Progress">${percent} %</progress>`}
      ${status.error && html`<${Complaint} problem=${{ message: status.error.code, detail: status.error.message }} />`}
      ${status.live_workers === 0 && html`<p class="offline" role="status">No worker of this service is there; the request waits for one.</p>`}
      ${status.retry_of && html`<p>Made of the dead letter <a class="mono" href=${"#/requests/" + status.retry_of}>${status.retry_of}</a></p>`}
      ${status.retried_as && html`<p>Redriven as <a class="mono" href=${"#/requests/" + status.retried_as}>${status.retried_as}</a></p>`}
      ${legs && html`
        <ol aria-label="Services">${legs.map((/** @type {any} */ l) => html`
          <li key=${l.service}><span>${l.service}</span><span class=${l.status}>${l.status}</span><span class="mono">${l.error?.message}</span></li>`)}
        </ol>`}
      ${status.attempts && html`
        <ol aria-label="Earlier attempts">${status.attempts.map((/** @type {any} */ a) => html`
          <li key=${a.attempt}><time>${clock(a.ended_at)}</time><span>attempt ${a.attempt}</span><span class="mono">${a.error.code}: ${a.error.message}</span></li>`)}
        </ol>`}
      ${events.length > 0 && html`
        <ol aria-label="Events" tabindex="0" ref=${list} onScroll=${end}>${events.map((e) => html`
          <li key=${e.number}><time>${clock(e.at)}</time><span>${e.type} ${e.number}</span><span class="mono">${said(e)}</span></li>`)}
        </ol>`}
      ${status.reply && html`<h3>${legs ? "The answers" : `Reply, ${status.reply.size} bytes of ${status.reply.content_type || "no type"}${status.reply.encoding === "base64" ? ", in base64" : ""}`}</h3>
        <pre id="reply">${status.reply.body !== undefined ? shown(status.reply.body)
          : html`too large to show: ${key.get() ? status.links.reply : html`<a href=${status.links.reply}>${status.links.reply}</a>`}`}</pre>`}
      ${status.status === "succeeded" && !status.reply && html`<p>Its reply was not kept, as was asked.</p>`}
      <h3>The same with curl</h3>
      <pre>curl -N ${key.get() && '-H "Authorization: Bearer $COATCHECK_API_KEY" '}${location.origin}${status.links.events}</pre>
    </section>`;
}

function App() {
  const idOf = () => /^#\/requests\/([0-9a-f-]{36})$/.exec(location.hash)?.[1];
  const [id, setId] = useState(idOf());
  const [entries, setEntries] = useState(history.all());
  const [keys, setKeys] = useState(0); // how many were given: the request is asked for again with each
  useEffect(() => {
    const moved = () => setId(idOf());
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  const submitted = (/** @type {any} */ status) => {
    history.add({ id: status.correlation_id, service: status.service, at: status.created_at });
    setEntries(history.all());
    location.hash = "#/requests/" + status.correlation_id;
  };
  return html`
    <div class="page">
      <header><h1>coatcheck</h1><p>Hand a request in, get a ticket, watch the reply come.</p><nav><a href="../docs">Contract</a></nav></header>
      <main>
        <div class="column"><${Submit} submitted=${submitted} unlocked=${() => setKeys((n) => n + 1)} /><${History} entries=${entries} current=${id} /></div>
        <div class="column" id="request">${id ? html`<${Request} id=${id} key=${id + " " + keys} />`
          : html`<section><p class="empty">Submit something, and its events arrive here as they happen.</p></section>`}</div>
      </main>
    </div>`;
}

render(html`<${App} />`, /** @type {HTMLElement} */ (document.getElementById("app")));
