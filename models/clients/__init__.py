"""Do the clients that people have load what bct-onnx writes, and is it right and fast there?

    python -m models.clients onnxruntime-web-wasm --cache FOLDER --checkpoint ALL_MINILM_FOLDER --markdown TABLE.md

makes the files that are missing (`material`), asks one client or several about all of them (a script in `web/` or
`python/`), and writes the table of all answers so far (`table`). JavaScript clients need node and the packages of
``web/package.json`` (``npm install`` there, or elsewhere with ``WEB_CLIENTS=.../node_modules``), those in browsers
Chromium (``CHROMIUM``, by default ``/usr/bin/chromium``). Python clients run under ``--python``, in whose environment
they are installed.
"""
