"""`atlas serve`: the map of a realm over HTTP (`app.make_app`, `serving.run`), and the command `atlas` (`cli.main`).

Nothing is imported here, so that the command starts without what only the server needs.
"""
