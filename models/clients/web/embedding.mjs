// transformers.js on the folders that `python -m models.clients.embedding` has made; prints JSON.
//   node embedding.mjs CLIENT FOLDER ROUNDS
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { browse } from "./browser.mjs";
import { embed } from "./measure.mjs";

const [client, folder, rounds] = process.argv.slice(2);
const here = path.dirname(fileURLToPath(import.meta.url));
const packages = process.env.WEB_CLIENTS ?? path.join(here, "node_modules");
const told = JSON.parse(fs.readFileSync(path.join(folder, "material.json"), "utf8"));
const [, version, place] = /^transformers\.js-(\d)-(.*)$/.exec(client);
const name = `transformers-${version}`;

async function inNode() {
  const transformers = await import(pathToFileURL(path.join(packages, name, "dist", "transformers.node.mjs")));
  transformers.env.allowRemoteModels = false;
  transformers.env.localModelPath = folder;
  return { rows: await embed(transformers, "cpu", told.files, told.texts, +rounds) };
}

function inBrowser() {
  return browse(folder, packages, async (evaluated) => {
    const job = { package: name, script: "transformers.min.js", device: "wasm" };
    const ask = (files, texts, rounds) => evaluated("embedded", { ...job, files, texts, rounds });
    const rows = {};
    for (const file of told.files) Object.assign(rows, await ask([file], told.texts.slice(0, 1), 0)); // see clients.mjs
    const loaded = told.files.filter((file) => rows[file].loads);
    return Object.assign(rows, await ask(loaded, told.texts, +rounds));
  });
}

const answer = place === "browser" ? await inBrowser() : await inNode();
const { version: exact } = JSON.parse(fs.readFileSync(path.join(packages, name, "package.json"), "utf8"));
console.log(JSON.stringify({ client, version: exact, ...answer }));
process.exit(0);
