"""The `stubmail` command and its subcommands, one module each."""
