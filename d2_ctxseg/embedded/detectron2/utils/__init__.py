"""Small tools: registries, communication between processes, events, logging, files."""
