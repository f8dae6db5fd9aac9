"""The `wrenn` command: one module for each noun. Commands import their dependencies when they run, so that `--help` is fast."""
