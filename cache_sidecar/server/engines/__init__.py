"""Hosts of the services. An engine has the shape of `engine.Engine`."""
