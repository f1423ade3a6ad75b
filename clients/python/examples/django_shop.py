"""A shop with Django, whose sessions are in the sidecar: `python django_shop.py runserver --noreload`."""

import sys

from django.conf import settings
from django.core.cache import caches
from django.core.management import execute_from_command_line
from django.http import Http404, JsonResponse
from django.urls import path

if not settings.configured:
    settings.configure(
        DEBUG=True,
        SECRET_KEY="only for this example",
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["*"],
        MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
        SESSION_ENGINE="cache_sidecar_client.contrib.django.sessions",
        CACHES={"default": {"BACKEND": "cache_sidecar_client.contrib.django.cache.ProductCache"}},
    )


def product(request, product_id):
    found = caches["default"].get(product_id)
    if found is None:
        raise Http404
    request.session["seen"] = [*request.session.get("seen", []), product_id]
    return JsonResponse({"title": found.title, "price": str(found.price), "seen": request.session["seen"]})


def logout(request):
    request.session.flush()
    return JsonResponse({})


urlpatterns = [path("products/<product_id>", product), path("logout", logout)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
