"""pytest runs the examples of the pages here; Sphinx runs the gallery and reads its own configuration."""

collect_ignore_glob = ["conf.py", "examples/*", "auto_examples/*", "_build/*", "api/generated/*"]
