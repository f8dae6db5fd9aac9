"""`make bench`: the figures of SPECIFICATION.md, each beside a floor measured in the same run."""
