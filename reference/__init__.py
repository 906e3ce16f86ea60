"""What makes the tables of docs/config.md and docs/run-folder.md."""
