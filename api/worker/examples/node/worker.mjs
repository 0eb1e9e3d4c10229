// A worker in Node: npm ci, then node worker.mjs SERVICE, with the Redis of the gateways in REDIS_URL.
import { randomUUID } from "node:crypto";
import { setTimeout as pause } from "node:timers/promises";
import { createClient, RESP_TYPES } from "redis";
import { handle } from "./duties.mjs";

const service = process.argv[2], me = `node-${randomUUID()}`, slots = 4;
const redis = createClient({ url: process.env.REDIS_URL ?? "redis://127.0.0.1:6379" });
const waiting = redis.duplicate(), listening = redis.duplicate(); // a claim blocks its connection, so does a subscription
for (const client of [redis, waiting, listening]) {
  client.on("error", (e) => console.error(String(e))); // it connects anew by itself
  await client.connect();
}
let stopping = false, running = new Map(); // token -> {id, abort, over}
process.once("SIGTERM", () => (stopping = true));
await listening.subscribe(`cc:cancel:${service}`, (id) => running.forEach((job) => job.id === id && job.abort.abort()));

async function announce() { // and make the streams, of as many partitions as there are
  await redis.hSetNX("cc:services", service, "{}");
  const tags = (await redis.hGet("cc:config", "tags")) ?? "0";
  const streams = tags.split(",").map((tag) => ({ key: `cc:{${tag}}:queue:${service}`, id: ">" }));
  const known = () => {}; // BUSYGROUP: it is there already
  for (const { key } of streams) await redis.xGroupCreate(key, "workers", "0", { MKSTREAM: true }).catch(known);
  return streams;
}

async function send(job, reply) { // tried again while Redis is away or full: a reply that comes twice does no harm
  while (Date.now() < Number(job.deadline)) {
    if (await redis.xAdd(String(job.reply_to), "*", { token: job.token, ...reply }).catch(() => pause(250, false))) return;
  }
}

async function work(job, abort) {
  let seq = 0;
  const say = (event) => send(job, { seq: String(++seq), ...event });
  const beat = setInterval(() => send(job, { type: "heartbeat" }), Number(job.lease) / 3); // in ms; what computes belongs into a worker_thread
  const reply = await handle(job, say, abort.signal).catch((e) => ({ type: "failed", error: e.message }));
  clearInterval(beat);
  if (!abort.signal.aborted) await say(reply); // else nobody wants it
  running.delete(String(job.token));
}

const claims = waiting.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer }); // a body is bytes, not text
for (let read = 0, streams; !stopping; ) {
  try {
    if (Date.now() - read > 10_000) [streams, read] = [await announce(), Date.now()]; // partitions may be added
    const found = await claims.xReadGroup("workers", me, streams, { COUNT: 1, BLOCK: 1000 });
    for (const { message: job } of (found ?? []).flatMap((stream) => stream.messages)) {
      const abort = new AbortController();
      running.set(String(job.token), { id: String(job.id), abort, over: work(job, abort) });
    }
  } catch (e) { // NOGROUP where Redis lost its data, a restart: announce anew
    console.error(String(e));
    read = await pause(1000, 0);
  }
  while (running.size >= slots) await Promise.race(Array.from(running.values(), (job) => job.over));
}
await Promise.all(Array.from(running.values(), (job) => job.over)); // what was claimed is finished, also after SIGTERM
process.exit();
