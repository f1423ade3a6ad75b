"""Certificates that the injector makes: when they are renewed, and that there is no moment in which they are not trusted."""

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from cache_sidecar.injector import certificates
from cache_sidecar.injector.certificates import BACKDATED, SETTLING, Material, expiry

START = 1_700_000_000.0
DAY = 86400.0
LIFETIME = 30 * DAY
NAMES = ["injector.cs.svc", "injector.cs.svc.cluster.local"]


def renew(material: Material | None, now: float, names: list[str] = NAMES) -> Material:
    return certificates.renew(material, names, now=now, lifetime=LIFETIME)


def trusts(bundle: bytes, material: Material, now: float) -> bool:
    """Whether somebody who knows the bundle accepts the certificate at that time, as the API server would."""
    from datetime import UTC, datetime  # noqa: PLC0415

    store = Store(x509.load_pem_x509_certificates(bundle))
    policy = PolicyBuilder().store(store).time(datetime.fromtimestamp(now, UTC).replace(tzinfo=None))
    try:
        policy.build_server_verifier(x509.DNSName(NAMES[0])).verify(x509.load_pem_x509_certificate(material.serving.cert), [])
    except VerificationError:
        return False
    return True


def test_the_first_is_trusted_at_once_by_clocks_that_are_behind() -> None:
    made = renew(None, START)
    assert trusts(made.bundle, made, START)
    assert trusts(made.bundle, made, START - BACKDATED + 1)
    assert not trusts(renew(None, START).bundle, made, START)
    assert expiry(made.serving.cert) == START + LIFETIME


def test_nothing_changes_while_nothing_is_due() -> None:
    made = renew(None, START)
    assert renew(made, START + LIFETIME * 0.6) == made


def test_a_certificate_is_renewed_after_two_thirds() -> None:
    made = renew(None, START)
    later = renew(made, START + LIFETIME * 0.67)
    assert (later.authorities, later.serving != made.serving) == (made.authorities, True)


def test_other_names_need_another_certificate() -> None:
    made = renew(None, START)
    other = renew(made, START, ["other.cs.svc"])
    assert (other.authorities, other.serving != made.serving) == (made.authorities, True)


def test_at_every_step_of_years_what_is_shown_is_trusted_by_who_knows_the_bundle_before() -> None:
    material = renew(None, START)
    known, seen, now = material.bundle, set(), START
    while now < START + 3 * 365 * DAY:
        material = renew(material, now)
        assert trusts(known, material, now), "somebody who has not heard of the newest bundle yet"
        assert trusts(material.bundle, material, now)
        assert 1 <= len(material.authorities) <= 2
        known = material.bundle
        seen.add(material.serving)
        # Looks are half a settling apart while something is new, as the real ones are closer than that.
        now += SETTLING / 2 if len(material.authorities) > 1 and now - START < 400 * DAY and now % DAY < 3600 else DAY / 2
    assert len(seen) > 50
    assert material.authorities[0] != renew(None, START).authorities[0]


def test_it_comes_back_from_a_secret() -> None:
    made = renew(renew(None, START), START + LIFETIME * 12 * 0.7)
    assert len(made.authorities) == 2
    assert Material.from_secret(made.to_secret()) == made


@pytest.mark.parametrize("change", ["ca.crt", "ca.key", "tls.crt", "tls.key"])
def test_a_secret_that_does_not_fit_together_is_none(change: str) -> None:
    one, other = renew(None, START).to_secret(), renew(None, START).to_secret()
    assert Material.from_secret(one | {change: other[change]}) is None
    assert Material.from_secret(one | {change: b"nonsense"}) is None
    assert Material.from_secret({name: value for name, value in one.items() if name != change}) is None
