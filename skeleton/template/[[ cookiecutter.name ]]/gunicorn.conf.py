"""How gunicorn serves this. Its numbers are settings: WORKERS, THREADS, PORT and so on."""

from smartservice.gunicorn import settings

globals().update(
    settings(
        "[[ cookiecutter.package ]].config",
        "[[ cookiecutter.package ]].app:make_app()",
    )
)
