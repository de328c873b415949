// One JavaScript client on the material that `python -m models.clients` has made; prints JSON.
//   node clients.mjs CLIENT FOLDER ROUNDS
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { createRequire } from "node:module";
import { fileURLToPath, pathToFileURL } from "node:url";
import { integers, loader, measure, opener } from "./measure.mjs";

const [client, folder, rounds] = process.argv.slice(2);
const here = path.dirname(fileURLToPath(import.meta.url));
const packages = process.env.WEB_CLIENTS ?? path.join(here, "node_modules");
const require = createRequire(path.join(packages, "..", "package.json"));
const told = JSON.parse(fs.readFileSync(path.join(folder, "material.json"), "utf8"));

const material = {
  files: told.files,
  cases: integers(told.cases, +rounds),
  native: async (file, name) => floats(fs.readFileSync(path.join(folder, "native", `${file}.${name}.bin`))),
};

const CLIENTS = {
  "onnxruntime-node": { package: "onnxruntime-node", run: inNode },
  "transformers.js-3-node": { package: "transformers-3", run: transformersInNode },
  "transformers.js-4-node": { package: "transformers-4", run: transformersInNode },
  "onnxruntime-web-wasm": { package: "onnxruntime-web", page: { script: "ort.wasm.bundle.min.mjs", providers: ["wasm"] } },
  "onnxruntime-web-default": { package: "onnxruntime-web", page: { script: "ort.bundle.min.mjs", providers: ["wasm"] } },
  "onnxruntime-web-webgpu": { package: "onnxruntime-web", page: { script: "ort.webgpu.bundle.min.mjs", providers: ["webgpu"] } },
  "transformers.js-3-browser": { package: "transformers-3", page: { script: "transformers.min.js", device: "wasm" } },
  "transformers.js-4-browser": { package: "transformers-4", page: { script: "transformers.min.js", device: "wasm" } },
  "transformers.js-4-webgpu": { package: "transformers-4", page: { script: "transformers.min.js", device: "webgpu" } },
};

function floats(bytes) {
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
}

function version(name) {
  return JSON.parse(fs.readFileSync(path.join(packages, name, "package.json"), "utf8")).version;
}

async function inNode() {
  const ort = require("onnxruntime-node");
  const options = { intraOpNumThreads: 1, interOpNumThreads: 1, logSeverityLevel: 4 };
  return measure(opener(ort, (file) => path.join(folder, file, "onnx", "model_quantized.onnx"), options), material, +rounds);
}

async function transformersInNode(name) {
  const transformers = await import(pathToFileURL(path.join(packages, name, "dist", "transformers.node.mjs")));
  transformers.env.allowRemoteModels = false;
  transformers.env.localModelPath = folder;
  return measure(loader(transformers, "cpu"), material, +rounds);
}

async function inBrowser(name, page) {
  const puppeteer = (await import(pathToFileURL(require.resolve("puppeteer-core")))).default;
  const server = await serve();
  const flags = ["--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"];
  const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
  const browser = await puppeteer.launch({ executablePath, headless: true, args: flags, protocolTimeout: 1_800_000 });
  try {
    const ask = async (files, rounds) => {
      const tab = await browser.newPage();
      if (process.env.VERBOSE) tab.on("console", (line) => console.error(line.text().slice(0, 400)));
      await tab.goto(`http://localhost:${server.address().port}/page.html`);
      const rows = await tab.evaluate((job) => window.measured(job), { package: name, files, rounds, ...page });
      await tab.close();
      return rows;
    };
    const rows = {};
    for (const file of told.files) Object.assign(rows, await ask([file], 0)); // a refusal spoils what is loaded after it
    if (+rounds) Object.assign(rows, await ask(told.files.filter((file) => rows[file].loads), +rounds));
    return { rows, browser: await browser.version() };
  } finally {
    await browser.close();
    server.close();
  }
}

/** Serves this folder, the packages and the material; nothing outside of them is asked for. */
function serve() {
  const roots = { packages, material: folder };
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

const { package: name, run, page } = CLIENTS[client];
const answer = page ? await inBrowser(name, page) : { rows: await run(name) };
console.log(JSON.stringify({ client, version: version(name), ...answer }));
process.exit(0);
