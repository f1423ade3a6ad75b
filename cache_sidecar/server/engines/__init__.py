"""The engines, which host the services; each implements `engine.Engine`."""
