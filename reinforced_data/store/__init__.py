"""The format: columns, rows, commits, and the files they are; ../README.md describes it."""
