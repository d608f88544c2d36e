"""`villagemesh`, the command line: thin, and importing late, because some of it must stay small."""
