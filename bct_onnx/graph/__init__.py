"""Models as graphs: load, save, constants, editing, recognising, provenance."""
