"""Revocation lists: which count, what they revoke, and what is said of those that cannot be used."""

import datetime as dt
from pathlib import Path

import pytest
from cryptography import x509

from cache_sidecar.core.errors import SettingsError
from cache_sidecar.server import revocations
from cache_sidecar.server.revocations import Revocations
from tests.support.authority import Authority, Pair

CA, OTHER_CA, STRANGER = Authority("the CA"), Authority("another CA"), Authority("a stranger")
# The same name, another key.
IMPOSTOR = Authority("the CA")
# What follows the common names.
REST = 'O=A \\"shop\\"\\, the é'


def read(folder: Path, crl: bytes, cas: bytes = CA.cert + OTHER_CA.cert) -> Revocations:
    (folder / "crl").write_bytes(crl)
    (folder / "cas").write_bytes(cas)
    return Revocations.read(str(folder / "crl"), str(folder / "cas"))


def error_of(folder: Path, crl: bytes, cas: bytes = CA.cert) -> str:
    with pytest.raises(SettingsError) as caught:
        read(folder, crl, cas)
    return str(caught.value)


def parsed(pair: Pair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.cert)


def test_a_file_has_any_number_of_lists(tmp_path: Path) -> None:
    first, second, third, valid = CA.client("a"), CA.client("b"), OTHER_CA.client("c"), CA.client("d")
    lists = b"# of the CA\n" + CA.crl(first.cert) + CA.crl(second.cert) + b"\n" + OTHER_CA.crl(third.cert)
    found = read(tmp_path, lists)
    assert [found.is_revoked(parsed(one)) for one in (first, second, third, valid)] == [True, True, True, False]
    assert len(found.in_der()) == 3
    assert not Revocations().is_revoked(parsed(first))


def test_a_serial_number_counts_for_its_issuer_only(tmp_path: Path) -> None:
    of_other = OTHER_CA.client("c")
    assert not read(tmp_path, CA.crl(of_other.cert)).is_revoked(parsed(of_other))


@pytest.mark.parametrize(
    ("crl", "said"),
    [
        (b"", "has no CRL in PEM"),
        (CA.cert, "has no CRL in PEM"),
        (CA.crl().replace(b"MI", b"AA", 1), "has a CRL that cannot be read"),
        (CA.crl() + CA.crl()[:100], "has a CRL that cannot be read"),
        (
            CA.crl() + STRANGER.crl(),
            f"has a CRL of CN=a stranger,{REST}, which is not in listen_tls_client_ca: add that CA there, or remove its CRL",
        ),
        (IMPOSTOR.crl(), f"has a CRL of CN=the CA,{REST} that this CA has not signed"),
    ],
)
def test_what_is_no_list_of_a_ca_is_refused_in_one_line(tmp_path: Path, crl: bytes, said: str) -> None:
    assert error_of(tmp_path, crl) == f"listen_tls_client_crl: {tmp_path}/crl {said}"


def test_a_list_is_refused_if_it_is_not_the_whole_list(tmp_path: Path) -> None:
    def point(*, indirect: bool) -> x509.IssuingDistributionPoint:
        return x509.IssuingDistributionPoint(
            full_name=None,
            relative_name=None,
            only_contains_user_certs=not indirect,
            only_contains_ca_certs=False,
            only_some_reasons=None,
            indirect_crl=indirect,
            only_contains_attribute_certs=False,
        )

    for extension in (x509.DeltaCRLIndicator(1), point(indirect=True)):
        assert "delta CRLs and indirect CRLs cannot be used" in error_of(tmp_path, CA.crl(extension=extension))
    revoked = CA.client("a")
    assert read(tmp_path, CA.crl(revoked.cert, extension=point(indirect=False))).is_revoked(parsed(revoked))


def test_files_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(SettingsError, match=f"listen_tls_client_crl: cannot read {missing}: No such file"):
        Revocations.read(str(missing), str(missing))
    assert error_of(tmp_path, CA.crl(), b"") == f"listen_tls_client_ca: {tmp_path}/cas is not a PEM file with certificates"
    monkeypatch.setattr(revocations, "MAX_BYTES", 2000)
    assert error_of(tmp_path, CA.crl() + b"#" * 2000) == f"listen_tls_client_crl: {tmp_path}/crl is larger than 2000 bytes"


def test_lists_past_their_next_update_still_count_and_are_named(tmp_path: Path) -> None:
    revoked, now = CA.client("a"), dt.datetime.now(dt.UTC)
    soon = now + dt.timedelta(hours=1)
    found = read(tmp_path, CA.crl(revoked.cert, next_update=soon) + OTHER_CA.crl())
    assert found.overdue(now) == ""
    assert found.overdue(soon).startswith("the CRL of CN=the CA,")
    assert found.overdue(soon).endswith(f" was to be updated by {soon:%Y-%m-%d %H:%M:%S} UTC")
    assert found.overdue(now + dt.timedelta(days=2)).count("; ") == 1
    assert found.is_revoked(parsed(revoked))
