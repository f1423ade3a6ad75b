"""Lines of the audit log about calls that no handler saw."""

from structlog.testing import capture_logs

from cache_sidecar.server.audit import Audit

METHOD = "cache_sidecar.v1.AdminService/Invalidate"


def test_admin_calls_that_are_refused_under_overload_are_counted() -> None:
    audit = Audit()
    with capture_logs() as lines:
        audit.record_overload(METHOD, 5)
        audit.record_overload(METHOD, 7)
        audit.record_overload("another", 1)
    found = [(line["event"], line["method"], line["count"], line["log_level"]) for line in lines]
    event = "admin calls refused under overload"
    assert found == [(event, METHOD, 5, "info"), (event, "another", 1, "info")], "the rest is in the line of another second"
