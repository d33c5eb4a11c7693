"""Where the map is kept: `store.py` says what a store must do, each other file does it with one technology."""
