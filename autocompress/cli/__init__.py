"""The command line: arguments in, one call, text out; one file for each command."""
