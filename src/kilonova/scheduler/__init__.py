"""Places instances on compute hosts and projects' networks on network hosts."""
