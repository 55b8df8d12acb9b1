"""Assembles components into processes: the only place, with the command line, that knows all of them."""
