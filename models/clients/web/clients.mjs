// One JavaScript client on the material that `python -m models.clients` has made; prints JSON.
//   node clients.mjs CLIENT FOLDER ROUNDS
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";
import { fileURLToPath, pathToFileURL } from "node:url";
import { browse } from "./browser.mjs";
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
  return browse(folder, packages, async (evaluated) => {
    const ask = (files, rounds) => evaluated("measured", { package: name, files, rounds, ...page });
    const rows = {};
    for (const file of told.files) Object.assign(rows, await ask([file], 0)); // a refusal spoils what is loaded after it
    if (+rounds) Object.assign(rows, await ask(told.files.filter((file) => rows[file].loads), +rounds));
    return rows;
  });
}

const { package: name, run, page } = CLIENTS[client];
const answer = page ? await inBrowser(name, page) : { rows: await run(name) };
console.log(JSON.stringify({ client, version: version(name), ...answer }));
process.exit(0);
