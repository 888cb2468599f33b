"""A web page on this machine that shows what models see in pictures."""
