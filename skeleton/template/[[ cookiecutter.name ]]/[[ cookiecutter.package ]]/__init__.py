"""The service [[ cookiecutter.name ]]."""
