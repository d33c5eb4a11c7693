"""`atlas serve`: the map over HTTP."""

from __future__ import annotations

import click

from atlas.server.terminal import Tools


@click.command("serve", short_help="Serve the map over HTTP.")
@click.option(
    "--atlas", "atlas_url", metavar="URL", help="The store; else ATLAS_STORE, ATLAS_URL, or the local realm's file."
)
@click.option("--host", help="Where to listen; else HOST, else 127.0.0.1.")
@click.option("--port", type=click.IntRange(1, 65535), help="Where to listen; else PORT, else 7070.")
@click.pass_context
def serve(context: click.Context, atlas_url: str | None, host: str | None, port: int | None) -> None:
    """Serve the map of a store over HTTP, with a page at /, until it is told to stop.

    Any number of replicas may serve one store. Outside of the local realm every request needs a token; without tokens
    it refuses to listen on a public address.
    """
    from atlas.server import serving

    tools = context.find_object(Tools) or Tools()
    url = atlas_url or context.find_root().params.get("atlas_url")
    serving.run(url, host, port, environ=tools.environ)
