"""A pytest plugin for the authors of services: app, client, rolled-back database, captured logs and reports, frozen clock."""
