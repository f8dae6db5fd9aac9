"""The `wrenn` command: one module a noun. A command imports what it needs when it runs, so that `--help` is quick."""
