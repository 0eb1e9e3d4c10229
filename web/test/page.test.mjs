// The page in a real browser against the real binary. Needs chromium and Go;
// `make browser` runs it.
import assert from "node:assert/strict";
import { spawn, execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, existsSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";

const shots = mkdtempSync(join(tmpdir(), "coatcheck-page-"));
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
let gateway, browser, origin;

before(async () => {
  const binary = join(shots, "coatcheck");
  execFileSync("go", ["build", "-o", binary, "./cmd/coatcheck"], { cwd: join(import.meta.dirname, "../.."), stdio: "inherit" });
  gateway = spawn(binary, ["dev", "--addr", "127.0.0.1:0", "--redis-addr", "127.0.0.1:0"], { env: { ...process.env, XDG_RUNTIME_DIR: shots } });
  origin = await new Promise((found, lost) => {
    let said = "";
    gateway.stdout.on("data", (chunk) => {
      said += chunk;
      const url = /page\s+(http:\/\/[^/]+)\/ui/.exec(said);
      if (url) found(url[1]);
    });
    gateway.on("exit", (code) => lost(new Error(`coatcheck dev ended with ${code}: ${said}`)));
  });
  const executablePath = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);
  assert.ok(executablePath, "the browser tests need chromium (Debian: apt-get install chromium)");
  browser = await chromium.launch({
    executablePath,
    args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
});

after(async () => {
  await browser?.close();
  gateway?.kill("SIGTERM");
});

for (const [colorScheme, width] of [["light", 1100], ["dark", 390]]) {
  test(`submit, watch, reload: ${colorScheme}, ${width} px`, async () => {
    const context = await browser.newContext({ colorScheme, viewport: { width, height: 800 } });
    const page = await context.newPage();
    const wrong = [];
    page.on("pageerror", (error) => wrong.push(error.message));
    page.on("console", (line) => line.type() === "error" && wrong.push(line.text()));
    page.on("request", (request) => request.url().startsWith(origin) || request.url().startsWith("data:") || wrong.push("left the origin: " + request.url()));

    await page.goto(origin + "/ui/");
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
