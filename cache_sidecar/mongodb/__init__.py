"""User events in MongoDB: a copy that the relay keeps, and questions about it. The only place that speaks to MongoDB.

Needs the optional dependency: `pip install 'cache-sidecar[mongodb]'`.
"""
