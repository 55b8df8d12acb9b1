"""Everything of the network controller that touches a host's kernel: it acts, and decides nothing.

What shall be is said by `kilonova.network.plan` and its layouts; here it is made so.
"""
