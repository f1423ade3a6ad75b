"""A gRPC cache sidecar for e-commerce. Start reading at `app.py`; a request's way is described in `README.md` beside it."""

__version__ = "0.2.0"
