"""Files for older versions of ONNX Runtime, each tried in the releases that it is for.

    python -m models.runtimes --cache FOLDER --markdown models/results/runtimes.md

makes an environment per release under FOLDER from the package registry, rewrites every model (``--model NAME=FILE``)
with every preset as usual and for each ``--min-runtime``, runs all files in all releases and writes the table. What is
in FOLDER stays as it is.
"""
