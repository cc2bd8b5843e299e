"""The authoritative DNS server: name, answer, wire (pure) and the worker process around them."""
