// The page in a real browser against the real binary. Needs chromium and Go;
// `make browser` runs it.
import assert from "node:assert/strict";
import { spawn, execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, writeFileSync, existsSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";

const shots = mkdtempSync(join(tmpdir(), "coatcheck-page-"));
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const binary = join(shots, "coatcheck");
const gateways = [];
let browser, origin;

/** Starts a gateway and says where its page is. */
function start(...options) {
  const gateway = spawn(binary, ["dev", "--addr", "127.0.0.1:0", "--redis-addr", "127.0.0.1:0", ...options], { env: { ...process.env, XDG_RUNTIME_DIR: shots } });
  gateways.push(gateway);
  return new Promise((found, lost) => {
    let said = "";
    gateway.stdout.on("data", (chunk) => {
      said += chunk;
      const url = /page\s+(http:\/\/[^/]+)\/ui/.exec(said);
      if (url) found(url[1]);
    });
    gateway.on("exit", (code) => lost(new Error(`coatcheck dev ended with ${code}: ${said}`)));
  });
}

before(async () => {
  execFileSync("go", ["build", "-o", binary, "./cmd/coatcheck"], { cwd: fileURLToPath(new URL("../..", import.meta.url)), stdio: "inherit" });
  origin = await start();
  const executablePath = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);
  assert.ok(executablePath, "the browser tests need chromium (Debian: apt-get install chromium)");
  browser = await chromium.launch({
    executablePath,
    args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
});

after(async () => {
  await browser?.close();
  for (const gateway of gateways) gateway.kill("SIGTERM");
});

/** Opens a page, and gathers what goes wrong on it. */
async function open(options, path) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  const wrong = [];
  page.on("pageerror", (error) => wrong.push(error.message));
  page.on("console", (line) => line.type() === "error" && wrong.push(line.text()));
  page.on("request", (request) => /^(data|blob):/.test(request.url()) || request.url().startsWith(origin + "/") || wrong.push("left the origin: " + request.url()));
  await page.goto(origin + path);
  return { context, page, wrong };
}

for (const [colorScheme, width] of [["light", 1100], ["dark", 390]]) {
  test(`submit, watch, reload: ${colorScheme}, ${width} px`, async () => {
    const { context, page, wrong } = await open({ colorScheme, viewport: { width, height: 800 } }, "/ui/");
    await page.waitForFunction(() => document.querySelectorAll("#service option").length === 6);
    await page.click("form button");
    await page.waitForFunction(() => {
      const bar = document.querySelector("progress");
      return bar && bar.value > 0 && bar.value < 100;
    });
    await page.screenshot({ path: join(shots, colorScheme + "-running.png"), fullPage: true });
    await page.waitForFunction(() => document.querySelector("#status")?.textContent === "succeeded");
    await page.reload();
    await page.waitForFunction(() => document.querySelectorAll("ol li").length === 8 && document.querySelectorAll(".history li").length === 1);
    assert.equal(await page.textContent("#reply"), '{"steps":8}');
    await page.screenshot({ path: join(shots, colorScheme + "-done.png"), fullPage: true });
    const { violations } = await page.evaluate(axe + "; axe.run()");
    assert.deepEqual(violations.map((v) => v.id), []);
    assert.deepEqual(wrong, []);
    await context.close();
  });
}

test("a scatter, a redrive, what is scheduled", async () => {
  const post = async (path, body, headers = {}) => (await fetch(origin + path, { method: "POST", body, headers })).json();
  const text = async (id, what) => {
    const { context, page, wrong } = await open({}, "/ui/#/requests/" + id);
    await page.waitForFunction((wanted) => document.querySelector("#status")?.closest("section").textContent.includes(wanted), what);
    const all = await page.textContent("section:has(#status)");
    assert.deepEqual(wrong, []);
    await context.close();
    return all;
  };
  const scatter = await post("/v1/scatter?services=echo,fail&min_replies=1", '{"message":"no paper"}');
  assert.match(await text(scatter.correlation_id, "The answers"), /scatter: 1 of 2 succeeded, 1 needed/);
  const later = await post("/v1/services/echo/requests", "x", { "Coatcheck-Delay": "10m", "Coatcheck-Priority": "high" });
  assert.match(await text(later.correlation_id, "until "), /high priority/);
  const dead = await post("/v1/services/fail/requests", '{"message":"no paper"}', { Prefer: "wait=5" });
  const made = await post(dead.links.self + "/retry", "");
  assert.ok((await text(dead.correlation_id, "Redriven as")).includes(made.correlation_id));
  assert.ok((await text(made.correlation_id, "Made of the dead letter")).includes(dead.correlation_id));
});

test("replies that are no text, too large, or not kept", async () => {
  const request = async (body, headers) => {
    const answer = await fetch(origin + "/v1/services/echo/requests", { method: "POST", body, headers: { Prefer: "wait=5", ...headers } });
    const { context, page, wrong } = await open({}, "/ui/#/requests/" + answer.headers.get("X-Correlation-Id"));
    await page.waitForSelector("#status.succeeded");
    const text = await page.textContent("section:has(#status)");
    const links = await page.locator("#reply a").evaluateAll((all) => all.map((a) => a.getAttribute("href")));
    assert.deepEqual(wrong, []);
    await context.close();
    return { text, links };
  };
  assert.match((await request(new Uint8Array([0, 255]), { "Content-Type": "application/octet-stream" })).text, /2 bytes of application\/octet-stream, in base64AP8=/);
  const { links } = await request("x".repeat(100_000));
  assert.equal((await (await fetch(origin + links[0])).text()).length, 100_000);
  assert.match((await request("x", { Prefer: "return=minimal, wait=5" })).text, /not kept/);
});

test("cancel by keyboard", async () => {
  const { context, page, wrong } = await open({ viewport: { width: 1100, height: 800 } }, "/ui/");
  await page.waitForFunction(() => document.querySelectorAll("#service option").length === 6);
  await page.selectOption("#service", "sleep");
  await page.focus("#body");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await page.waitForSelector("button.quiet");
  await page.focus("button.quiet");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.querySelector("#status")?.textContent === "canceled");
  assert.deepEqual(wrong, []);
  await context.close();
});

test("a gateway without the demo services, on a phone", async () => {
  const { context, page } = await open({ viewport: { width: 420, height: 600 } }, "/docs");
  const services = ["bill", "shout"].map((name) => ({ name, ...(name === "bill" && { paused_at: "2026-11-23T21:45:02.559Z" }) }));
  await page.route("**/v1/services", (route) => route.fulfill({ json: { services } }));
  let asked;
  await page.route("**/v1/services/*/requests", (route) => {
    asked = new URL(route.request().url()).pathname;
    return route.continue({ url: origin + "/v1/services/echo/requests" });
  });
  await page.goto(origin + "/ui/");
  await page.waitForFunction(() => document.querySelectorAll("#service option").length === 2);
  assert.equal(await page.textContent("#service option:checked"), "bill (paused)");
  assert.equal(await page.inputValue("#body"), "");
  await page.fill("#body", "[1]");
  await page.click("form button");
  await page.waitForSelector("#status.succeeded");
  assert.equal(asked, "/v1/services/bill/requests"); // what is shown, not what it began with
  assert.match(await page.textContent("#request h3"), /application\/json/);
  assert.ok(await page.evaluate(() => document.querySelector("#status").getBoundingClientRect().top < innerHeight / 2), "what was submitted is in view");
  await context.close();
});

test("what the gateway refuses is said", async () => {
  const { context, page } = await open({ viewport: { width: 1100, height: 800 } }, "/ui/#/requests/01a20ab5-4c56-8000-ae3b-b77f544ab6f3");
  await page.waitForSelector("[role=alert] strong");
  assert.match(await page.textContent("[role=alert]"), /never issued|not found/i);
  await context.close();
});

test("a key opens what was asked for without one", async () => {
  const [key, , , ...lines] = execFileSync(binary, ["keys", "create"], { encoding: "utf8" }).split("\n");
  writeFileSync(join(shots, "keys.yaml"), lines.join("\n"));
  const locked = await start("--config", join(shots, "keys.yaml"));
  const headers = { Authorization: "Bearer " + key };
  const accepted = await (await fetch(locked + "/v1/services/echo/requests", { method: "POST", body: "hi", headers })).json();
  const page = await browser.newPage();
  await page.goto(locked + "/ui/#/requests/" + accepted.correlation_id);
  await page.fill("input[type=password]", key);
  await page.keyboard.press("Tab");
  await page.waitForFunction(() => document.querySelector("#status")?.textContent === "succeeded" && document.querySelectorAll("#service option").length === 6);
  assert.equal(await page.textContent("#reply"), "hi");
  assert.equal(await page.locator("[role=alert]").count(), 0);
  await page.close();
});

test("a stream that breaks says so, and comes back", async () => {
  const { context, page } = await open({ viewport: { width: 1100, height: 800 } }, "/ui/");
  await page.waitForFunction(() => document.querySelectorAll("#service option").length === 6);
  await page.fill("#body", '{"steps":10,"interval":"400ms"}');
  let cut = 0;
  await page.route("**/events*", (route) => (cut++ === 0 ? route.abort() : route.continue()));
  await page.click("form button:not(.quiet)");
  await page.waitForSelector(".offline");
  await page.waitForFunction(() => document.querySelector("#status")?.textContent === "succeeded", null, { timeout: 20_000 });
  assert.equal(await page.locator(".offline").count(), 0);
  assert.equal(await page.locator("ol li").count(), 10);
  assert.ok(await page.evaluate(() => {
    const [list, last] = [document.querySelector("ol"), document.querySelector("ol li:last-child")];
    return list.scrollHeight > list.clientHeight && last.getBoundingClientRect().bottom <= list.getBoundingClientRect().bottom + 1;
  }), "the newest event is in view");
  await context.close();
});

test("what is gone while it is watched is not waited for", async () => {
  const { context, page } = await open({ viewport: { width: 1100, height: 800 } }, "/ui/");
  await page.waitForFunction(() => document.querySelectorAll("#service option").length === 6);
  const gone = { status: 410, json: { title: "The request is gone", status: 410, detail: "Redis lost its data." } };
  let refused = 0;
  await page.route("**/events*", (route) => (refused++, route.fulfill(gone)));
  await page.route("**/v1/requests/*?redact=true", (route) => (refused ? route.fulfill(gone) : route.continue()));
  await page.selectOption("#service", "sleep");
  await page.click("form button:not(.quiet)");
  await page.waitForFunction(() => document.querySelector("[role=alert]")?.textContent.includes("The request is gone"));
  assert.equal(await page.locator(".offline").count(), 0);
  assert.equal(refused, 1);
  await context.close();
});

test("the contract", async () => {
  const { context, page, wrong } = await open({ viewport: { width: 1100, height: 800 } }, "/docs");
  await page.waitForFunction(() => document.querySelectorAll(".opblock").length >= 10);
  await page.screenshot({ path: join(shots, "docs.png") });
  assert.deepEqual(wrong, []);
  await context.close();
});
