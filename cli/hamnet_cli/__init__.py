"""The command line of hamnet: it reads options, calls the library and prints; no logic."""
