"""The settings of this service. The line above each is its description; the environment variable of its name wins."""

[% if cookiecutter.db or cookiecutter.redis %]
from smartconfig import NeedsRestart, Secret
[% else %]
from smartconfig import NeedsRestart
[% endif %]

# The name of this service in its realm.
SERVICE_NAME: NeedsRestart[str] = "[[ cookiecutter.name ]]"
# The port that gunicorn binds.
PORT: NeedsRestart[int] = [[ cookiecutter.port ]]
# The word that every greeting begins with.
SALUTATION: str = "Hello"
[% if cookiecutter.db %]
# Where the database is: a file on a laptop; production names its PostgreSQL, postgresql://user@host/name.
DATABASE_URL: Secret[str] = "sqlite:///[[ cookiecutter.package ]].sqlite3"
[% endif %]
[% if cookiecutter.redis %]
# Where Redis is, redis://host:6379/0. Empty: greetings are not counted.
REDIS_URL: Secret[str] = ""
[% endif %]
