"""Programs written against requests, the server that they talk to, and what can be observed of a run."""
