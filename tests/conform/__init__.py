"""`villagemesh conform`: that it passes what keeps the rules, and finds what breaks one."""
