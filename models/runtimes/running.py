"""Run one file in the ONNX Runtime of this environment: ``running.py FILE FEEDS.npz OUTPUTS.npz [ROUNDS]``.

It needs onnxruntime and numpy alone. FEEDS has a sample in ``K/NAME`` for each number K; the last one is timed, in one
thread. It prints milliseconds (least of the rounds) and seconds to load, or ``refused`` and the reason.
"""

import json
import sys
import time

import numpy as np
import onnxruntime as ort


def main(file: str, feeds: str, outputs: str, rounds: str = "8") -> None:
    """Run all samples, time ``rounds`` of the last one and write what comes out."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    try:
        start = time.perf_counter()
        session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        loaded = time.perf_counter() - start
        names = {one.name for one in session.get_inputs()}
        samples: dict[str, dict[str, np.ndarray]] = {}
        for key, value in np.load(feeds).items():
            number, _, name = key.partition("/")
            if name in names:
                samples.setdefault(number, {})[name] = value
        results = {number: session.run(None, sample) for number, sample in samples.items()}
        times = []
        for _ in range(int(rounds)):
            start = time.perf_counter()
            session.run(None, samples[max(samples)])
            times.append(time.perf_counter() - start)
    except Exception as error:  # any of the binding's many classes: what counts is that it does not run
        print(json.dumps({"refused": str(error)[:300]}))
        return
    flat = {f"{number}/{at}": value for number, values in results.items() for at, value in enumerate(values)}
    np.savez(outputs, **flat)
    print(json.dumps({"ms": 1000 * min(times, default=0.0), "load": loaded}))


if __name__ == "__main__":
    main(*sys.argv[1:])
