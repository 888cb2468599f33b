"""A web page on this machine that shows predictions of models."""
