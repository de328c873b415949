// What every JavaScript client is asked: does each file load, how far is it from ONNX Runtime native, how long does it take.

/**
 * @param open  async (file) => async (inputs) => Float32Array; `inputs` by name: {dims, data: BigInt64Array}
 * @param material  {files: [name], cases: {name: inputs}, native: async (file, case) => Float32Array}
 * @param rounds  timed runs per file and case; each round starts with another file
 * @returns by file: {loads, why, difference, ms: {case: least}}, the least of the rounds, as other programs run beside
 */
export async function measure(open, material, rounds) {
  const rows = {}, running = {};
  for (const file of material.files) {
    try {
      running[file] = await open(file);
      rows[file] = { loads: true, difference: 0, ms: {} };
    } catch (error) {
      rows[file] = { loads: false, why: firstLine(error) };
    }
  }
  for (const [name, inputs] of Object.entries(material.cases)) {
    for (const [file, run] of Object.entries(running)) {
      try {
        const expected = await material.native(file, name);
        rows[file].difference = Math.max(rows[file].difference, furthest(await run(inputs), expected));
      } catch (error) {
        rows[file] = { loads: false, why: firstLine(error) };
        delete running[file];
      }
    }
    if (!rounds) continue;
    const times = await timed(running, inputs, rounds);
    for (const file of Object.keys(running)) rows[file].ms[name] = times[file];
  }
  return rows;
}

async function timed(running, inputs, rounds) {
  const files = Object.keys(running), times = Object.fromEntries(files.map((file) => [file, []]));
  for (let round = 0; round < rounds; round++) {
    for (let at = 0; at < files.length; at++) {
      const file = files[(at + round) % files.length], start = performance.now();
      await running[file](inputs);
      times[file].push(performance.now() - start);
    }
  }
  return Object.fromEntries(files.map((file) => [file, Math.min(...times[file])]));
}

function furthest(got, expected) {
  if (got.length !== expected.length) throw new Error(`${got.length} numbers instead of ${expected.length}`);
  let most = 0;
  for (let at = 0; at < got.length; at++) {
    const apart = Math.abs(got[at] - expected[at]);
    if (!(apart <= most)) most = apart; // NaN too
  }
  return most;
}

function firstLine(error) {
  return String(error?.message ?? error).split("\n").find((line) => line.trim())?.slice(0, 300) ?? "";
}

/** Inputs as they come in JSON, lists of numbers, as 64-bit integers; the first alone where nothing is timed. */
export function integers(cases, rounds) {
  const made = {};
  for (const [name, inputs] of Object.entries(cases).slice(0, rounds ? undefined : 1)) {
    made[name] = {};
    for (const [input, { dims, data }] of Object.entries(inputs)) {
      made[name][input] = { dims, data: BigInt64Array.from(data, BigInt) };
    }
  }
  return made;
}

/** Opens files with a session class of onnxruntime-web or onnxruntime-node. */
export function opener(ort, path, options) {
  return async (file) => {
    const session = await ort.InferenceSession.create(path(file), options);
    return async (inputs) => {
      const feeds = {};
      for (const name of session.inputNames) {
        feeds[name] = new ort.Tensor("int64", inputs[name].data, inputs[name].dims);
      }
      const outputs = await session.run(feeds, [session.outputNames[0]]);
      const output = outputs[session.outputNames[0]];
      return (await output.getData()).slice();
    };
  };
}

/** Opens the folders of files with transformers.js, which takes `onnx/model_quantized.onnx` for "q8". */
export function loader({ AutoModel, Tensor }, device) {
  return async (file) => {
    const model = await AutoModel.from_pretrained(file, { dtype: "q8", device });
    return async (inputs) => {
      const feeds = {};
      for (const [name, { dims, data }] of Object.entries(inputs)) feeds[name] = new Tensor("int64", data, dims);
      const { last_hidden_state } = await model(feeds);
      return (last_hidden_state.ort_tensor ? await last_hidden_state.ort_tensor.getData() : last_hidden_state.data).slice();
    };
  };
}

const BATCH = 32;

/**
 * Vectors of texts by transformers.js, as a folder's card says, from each folder in turn.
 * @returns by file: {loads, why, load, seconds, cosine}: seconds to load it and for all texts, the mean cosine to the first's
 */
export async function embed({ pipeline }, device, files, texts, rounds) {
  const rows = {}, running = {};
  let reference;
  for (const file of files) {
    try {
      const start = performance.now();
      const run = await pipeline("feature-extraction", file, { dtype: "q8", device });
      const load = (performance.now() - start) / 1e3;
      running[file] = async () => {
        const vectors = [];
        for (let at = 0; at < texts.length; at += BATCH) {
          const output = await run(texts.slice(at, at + BATCH), { pooling: "mean", normalize: true });
          vectors.push(...output.tolist());
        }
        return vectors;
      };
      const vectors = await running[file]();
      reference ??= vectors;
      rows[file] = { loads: true, load, cosine: cosine(reference, vectors), seconds: Infinity };
    } catch (error) {
      rows[file] = { loads: false, why: firstLine(error) };
      delete running[file];
    }
  }
  for (let round = 0; round < rounds; round++) {
    for (const [file, run] of Object.entries(running)) {
      const start = performance.now();
      await run();
      rows[file].seconds = Math.min(rows[file].seconds, (performance.now() - start) / 1e3);
    }
  }
  return rows;
}

function cosine(all, others) {
  let sum = 0;
  all.forEach((vector, at) => vector.forEach((number, place) => (sum += number * others[at][place])));
  return sum / all.length;
}
