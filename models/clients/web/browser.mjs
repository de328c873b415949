// Pages in headless Chromium that are asked for what a client does there.
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { createRequire } from "node:module";
import { fileURLToPath, pathToFileURL } from "node:url";

const here = path.dirname(fileURLToPath(import.meta.url));

/**
 * Rows that a job gives in a browser, and the browser's version.
 * @param folder  what pages read below /material/
 * @param packages  what they read below /packages/, node_modules
 * @param job  async (evaluated) => rows; `evaluated(name, argument)` calls a function of page.html in a tab of its own
 */
export async function browse(folder, packages, job) {
  const require = createRequire(path.join(packages, "..", "package.json"));
  const puppeteer = (await import(pathToFileURL(require.resolve("puppeteer-core")))).default;
  const server = await serve({ packages, material: folder });
  const flags = ["--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"];
  const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
  const browser = await puppeteer.launch({ executablePath, headless: true, args: flags, protocolTimeout: 1_800_000 });
  try {
    const evaluated = async (name, argument) => {
      const tab = await browser.newPage();
      if (process.env.VERBOSE) tab.on("console", (line) => console.error(line.text().slice(0, 400)));
      await tab.goto(`http://localhost:${server.address().port}/page.html`);
      const result = await tab.evaluate((name, argument) => window[name](argument), name, argument);
      await tab.close();
      return result;
    };
    return { rows: await job(evaluated), browser: await browser.version() };
  } finally {
    await browser.close();
    server.close();
  }
}

/** Serves this folder, the packages and the material; nothing outside of them is asked for. */
function serve(roots) {
  const kinds = { ".html": "text/html", ".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm" };
  const server = http.createServer((request, response) => {
    const [first, ...rest] = decodeURIComponent(new URL(request.url, "http://x").pathname).slice(1).split("/");
    const file = roots[first] ? path.join(roots[first], ...rest) : path.join(here, first, ...rest);
    if (!fs.existsSync(file) || !fs.statSync(file).isFile()) return response.writeHead(404).end();
    response.writeHead(200, {
      "Content-Type": kinds[path.extname(file)] ?? "application/octet-stream",
      "Content-Length": fs.statSync(file).size,
    });
    fs.createReadStream(file).pipe(response);
  });
  return new Promise((resolve) => server.listen(0, "localhost", () => resolve(server)));
}
