"""Settings: where they come from, and the one line that says what is wrong with them."""

import os
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from cache_sidecar.config.settings import PREFIX, Settings, describe, load, split_address
from cache_sidecar.core import container_memory, masks
from cache_sidecar.core.container_memory import MIB
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.injector import quantity
from cache_sidecar.injector.options import Options
from tests.support.cgroup import Cgroup
from tests.support.tokens import secret_file

SECRET = "s3cr3t-never-shown"
DSN = f"postgresql://shop:{SECRET}@db.internal:5432/shop"
NEEDED = {"redis_nodes": "127.0.0.1:6379", "postgres_catalog": DSN}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The least that must be set, and nothing else of ours."""
    for variable in list(os.environ):
        if variable.upper().startswith(PREFIX):
            monkeypatch.delenv(variable)
    for name, value in NEEDED.items():
        monkeypatch.setenv(PREFIX + name.upper(), value)
    monkeypatch.setattr(container_memory, "CGROUPS", ())
    return monkeypatch


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "settings.toml"


def error_of(**values: str) -> str:
    """Returns the one line that the settings of these variables lead to."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(PREFIX + name.upper(), value)
        return error_with()


def error_with(file: Path | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load(str(file) if file else None)
    text = str(caught.value)
    assert "\n" not in text
    assert SECRET not in text
    assert caught.value.__cause__ is None
    return text


# Where they come from


def test_what_is_not_set_has_its_default() -> None:
    settings = load()
    assert settings.listen_address == "127.0.0.1:50051"
    assert settings.redis_nodes == ("127.0.0.1:6379",)
    assert settings.l1_max_bytes == 160 * 1024 * 1024


@pytest.mark.parametrize("is_v1", [False, True])
@pytest.mark.parametrize(("limit", "wanted"), [("104Mi", 8), ("303Mi", 8), ("512Mi", 97), ("576Mi", 135), ("2Gi", 1018)])
def test_memory_for_entries_is_what_the_injector_would_set(
    tmp_path: Path, environment: pytest.MonkeyPatch, limit: str, wanted: int, is_v1: bool
) -> None:
    cgroup = Cgroup(tmp_path, is_v1=is_v1)
    cgroup.replace_kernel_s(environment)
    mebibytes = int(quantity.parse(limit)) // MIB
    cgroup.write(limit=mebibytes * MIB, used=MIB)
    assert load().l1_max_bytes == Options(memory_limit=limit, memory_request=limit).l1_bytes == wanted * MIB
    assert load().l1_reason == f"default for the container's memory limit of {mebibytes} MiB"
    (line,) = [line for line in describe() if line.name == "l1_max_bytes"]
    assert (line.value, line.origin) == (str(wanted * MIB), load().l1_reason)


def test_memory_for_entries_that_is_set_or_not_limited(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    cgroup = Cgroup(tmp_path)
    cgroup.replace_kernel_s(environment)
    assert (
        load().l1_reason == {line.name: line.origin for line in describe()}["l1_max_bytes"] == "default without a memory limit"
    )
    cgroup.write(limit=1024 * MIB, used=MIB)
    environment.setenv(PREFIX + "L1_MAX_BYTES", str(5 * MIB))
    assert (load().l1_max_bytes, load().l1_reason) == (5 * MIB, "set")
    assert {line.name: line.origin for line in describe()}["l1_max_bytes"] == PREFIX + "L1_MAX_BYTES"


def test_a_file_sets_and_a_variable_wins(toml: Path, environment: pytest.MonkeyPatch) -> None:
    toml.write_text('namespace = "file"\nregion = "eu"\n')
    environment.setenv(PREFIX + "NAMESPACE", "variable")
    settings = load(str(toml))
    assert (settings.namespace, settings.region) == ("variable", "eu")


def test_the_file_may_be_named_by_a_variable(toml: Path, environment: pytest.MonkeyPatch) -> None:
    toml.write_text('region = "eu"\n')
    environment.setenv(PREFIX + "CONFIG", str(toml))
    assert load().region == "eu"


def test_an_argument_wins_over_the_variable_that_names_a_file(toml: Path, environment: pytest.MonkeyPatch) -> None:
    toml.write_text('region = "eu"\n')
    environment.setenv(PREFIX + "CONFIG", "/no/such/file")
    assert load(str(toml)).region == "eu"


def test_a_file_can_be_a_symlink_as_kubernetes_mounts_it(toml: Path, tmp_path: Path) -> None:
    data = tmp_path / "..data"
    data.mkdir()
    (data / "settings.toml").write_text('region = "eu"\n')
    toml.symlink_to(data / "settings.toml")
    assert load(str(toml)).region == "eu"


def test_nodes_are_separated_by_commas_or_a_list(toml: Path, environment: pytest.MonkeyPatch) -> None:
    environment.setenv(PREFIX + "REDIS_NODES", " a:1 , b:2,")
    assert load().redis_nodes == ("a:1", "b:2")
    environment.delenv(PREFIX + "REDIS_NODES")
    toml.write_text('redis_nodes = ["c:3", "[::1]:4"]\n')
    assert load(str(toml)).redis_nodes == ("c:3", "[::1]:4")


@pytest.mark.parametrize("name", ["namespace", "Namespace", "NAMESPACE"])
def test_a_variable_s_case_does_not_matter(environment: pytest.MonkeyPatch, name: str) -> None:
    variable = PREFIX.lower() + name
    environment.setenv(variable, "lower")
    assert load().namespace == "lower"
    assert {line.name: line.origin for line in describe()}["namespace"] == variable


def test_roles_without_a_database_share_the_catalogue_s(environment: pytest.MonkeyPatch) -> None:
    environment.setenv(PREFIX + "POSTGRES_USER", "postgres://other/users")
    settings = load()
    assert settings.database("catalog") == DSN
    assert settings.database("user") == "postgres://other/users"


# What Kubernetes and applications set is not ours


@pytest.mark.parametrize("service", ["", "INJECTOR_", "RELAY_"])
def test_variables_of_kubernetes_services_are_ignored(environment: pytest.MonkeyPatch, service: str) -> None:
    stem = PREFIX + service
    for name, value in {
        "SERVICE_HOST": "10.0.0.1",
        "SERVICE_PORT": "443",
        "SERVICE_PORT_GRPC_WEB": "443",
        "PORT": "tcp://10.0.0.1:443",
        "PORT_443_TCP": "tcp://10.0.0.1:443",
        "PORT_443_TCP_PROTO": "tcp",
        "PORT_443_TCP_PORT": "443",
        "PORT_443_TCP_ADDR": "10.0.0.1",
    }.items():
        environment.setenv(stem + name, value)
    assert load().namespace == "cs"


@pytest.mark.parametrize("name", ["ADDRESS", "SOCKET", "CONFIG"])
def test_what_applications_are_told_is_ignored(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.setenv(PREFIX + name, "")
    load()


# What is wrong


@pytest.mark.parametrize("name", list(NEEDED))
def test_what_must_be_set_is_named_with_its_variable_and_meaning(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.delenv(PREFIX + name.upper())
    text = error_with()
    assert text.startswith(f"{name} is not set: set {PREFIX}{name.upper()}")
    assert "host:port" in text


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("namespace", "Shop-1", "a-z0-9_"),
        ("namespace", "", "a-z0-9_"),
        ("namespace", "x" * 17, "1,16"),
        ("listen_address", "localhost", "host:port"),
        ("listen_address", "localhost:http", "host:port"),
        ("listen_address", "localhost:99999", "host:port"),
        ("listen_socket_mode", "rw", "0-7"),
        ("redis_nodes", "redis", "host:port"),
        ("redis_nodes", "redis://cs_app:canary@redis:6379", "not a URI"),
        ("redis_nodes", "rediss://cs_app:cana,ry@redis:6379/0", "not a URI"),
        ("redis_nodes", "cs_app:canary@redis:6379", "not a URI"),
        ("redis_nodes", "a:1,b", "number 2 must be host:port"),
        ("redis_nodes", "redis:6379,password=canary", "number 2 must be host:port"),
        ("redis_nodes", "redis:6379:canary", "number 1 must be host:port"),
        ("redis_nodes", ",", "has no entry"),
        ("redis_mode", "sentinel", "'auto', 'cluster' or 'single'"),
        ("redis_timeout", "0", "greater than 0"),
        ("redis_timeout", "11", "less than or equal to 10"),
        ("redis_timeout", "fast", "number"),
        ("redis_timeout", "", "number"),
        ("redis_timeout", "nan", "less than or equal to 10"),
        ("redis_tls", "maybe", "boolean"),
        ("redis_tls_cert", __file__, "must be set together"),
        ("redis_tls_server_name", "redis.shop.internal", "requires redis_tls"),
        ("redis_tls_server_name", "*.shop.internal", "match pattern"),
        ("redis_tls_ca", "/no/such/ca.pem", "cannot read /no/such/ca.pem"),
        ("postgres_catalog", "", "at least 1"),
        ("postgres_catalog", "host=db user=shop", "postgresql://user:password@host:5432/database"),
        ("postgres_catalog", "mysql://db/shop", "postgresql://user:password@host:5432/database"),
        ("postgres_catalog", f"postgresql://shop:{SECRET}@db:port/shop", "postgresql://user:password@host:5432/database"),
        ("postgres_catalog", f"postgresql://u:{SECRET}@[db/shop", "postgresql://user:password@host:5432/database"),
        ("postgres_user", f"postgresql://u:{SECRET}@db:5432:1/shop", "percent-encoded"),
        ("postgres_user", f"postgresql://u:{SECRET}/x@db/shop", "percent-encoded"),
        ("postgres_pool_size", "0", "greater than or equal to 1"),
        ("postgres_pool_size", "8.5", "integer"),
        ("l1_max_bytes", "1000", "greater than or equal to 1048576"),
        ("l1_max_entries", "0", "greater than or equal to 1"),
        # No more than the native engine's integers hold, or starting would fail with a traceback.
        ("l1_max_bytes", "99999999999999999999", "less than or equal to 1099511627776"),
        ("l1_max_entries", "99999999999999999999", "less than or equal to 1000000000"),
        ("max_concurrent_calls", "99999999999999999999", "less than or equal to 1000000"),
        ("max_dataset_calls", "99999999999999999999", "less than or equal to 1000000"),
        ("max_message_bytes", "1000000000", "less than or equal to"),
        ("drain_seconds", "-1", "greater than or equal to 0"),
        ("drain_seconds", "nan", "less than or equal to 600"),
        ("region", "EU West", "a-z0-9-"),
        ("change_retention", "inf", "less than or equal to 2592000"),
        ("log_level", "loud", "'debug', 'info', 'warning' or 'error'"),
    ],
)
def test_one_line_names_the_setting_and_says_what_would_be_right(name: str, value: str, right: str) -> None:
    text = error_of(**{name: value})
    assert name in text
    assert right in text
    assert "canary" not in text
    assert "cana,ry" not in text


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://db/shop",
        "postgres://u@db:5432/shop",
        "postgresql://u:p%40ss%2F@db/shop?sslmode=require",
        "postgresql://u:p@[::1]:5432/shop",
        "postgresql://u@a:5432,b:5433/shop?target_session_attrs=read-write",
        "postgresql:///shop?host=/run/postgresql",
        "postgresql://%2Frun%2Fpostgresql/shop",
    ],
)
def test_whatever_libpq_takes_is_fine(environment: pytest.MonkeyPatch, dsn: str) -> None:
    conninfo_to_dict(dsn)
    environment.setenv(PREFIX + "POSTGRES_CATALOG", dsn)
    assert load().database("catalog") == dsn


def test_no_listener_at_all_is_wrong() -> None:
    assert error_of(listen_address="") == "listen_address and listen_socket are both empty: set at least one of them"


def test_quit_needs_a_token() -> None:
    said = error_of(quit_address="127.0.0.1:50052")
    assert said.startswith("quit_address requires quit_token_file, with the token for POST /quit; ")


def test_a_socket_alone_is_enough(environment: pytest.MonkeyPatch) -> None:
    environment.setenv(PREFIX + "LISTEN_ADDRESS", "")
    environment.setenv(PREFIX + "LISTEN_SOCKET", "/tmp/cs.sock")
    assert load().listen_socket == "/tmp/cs.sock"


def test_tls_files_that_are_there_are_fine(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret_file(tmp_path / "real", "certificate")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for name in ("CA", "CERT", "KEY"):
        environment.setenv(f"{PREFIX}REDIS_TLS_{name}", str(tmp_path / "link"))
    assert load().redis_tls_ca == str(tmp_path / "link")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("listen_tls_cert",), "listen_tls_cert and listen_tls_key must be set together"),
        (("listen_tls_client_ca",), "listen_tls_client_ca requires listen_tls_cert and listen_tls_key"),
        (
            ("recommendation_remote_tls_cert",),
            "recommendation_remote_tls_cert and recommendation_remote_tls_key must be set together",
        ),
        (("trace_tls_cert",), "trace_tls_cert and trace_tls_key must be set together"),
    ],
)
def test_the_files_of_tls_go_together(tmp_path: Path, given: tuple[str, ...], said: str) -> None:
    (tmp_path / "pem").write_text("pem")
    assert error_of(**dict.fromkeys(given, str(tmp_path / "pem"))) == said


@pytest.mark.parametrize("name", ["allowed_clients", "allowed_clients_file", "listen_tls_client_crl"])
def test_names_and_revocations_of_clients_need_their_certificates(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    said = error_of(**{name: str(tmp_path / "file")})
    assert said == f"{name} requires listen_tls_client_ca: without it clients present no certificate"
    if name != "allowed_clients":
        assert error_of(**{name: "/no/such/file"}) == f"{name}: cannot read /no/such/file: No such file or directory"


def test_names_of_clients_come_from_one_place(tmp_path: Path) -> None:
    secret_file(tmp_path / "file", "x")
    files = dict.fromkeys(
        ("listen_tls_cert", "listen_tls_key", "listen_tls_client_ca", "allowed_clients_file"), str(tmp_path / "file")
    )
    said = error_of(allowed_clients="cart.shop", **files)
    assert said == "allowed_clients and allowed_clients_file are both set: keep one of them"


def test_a_list_of_nobody_is_refused() -> None:
    # What a template makes of two variables that are not set: it must not admit everybody.
    for nobody in (",", " ", " , "):
        assert error_of(allowed_clients=nobody) == "allowed_clients: has no entry, only commas or spaces"


@pytest.mark.parametrize(
    ("uri", "mode"),
    [
        ("postgresql://shop@db/shop", "verify-full"),
        ("postgresql://shop@db", "verify-full"),
        ("postgresql://shop@db/shop?application_name=x", "verify-full"),
        ("postgresql://shop@db/shop?sslmode=verify-ca", "verify-ca"),
    ],
)
def test_the_ca_of_postgresql_applies_to_every_uri(
    environment: pytest.MonkeyPatch, tmp_path: Path, uri: str, mode: str
) -> None:
    ca = tmp_path / "ca@& é.crt"
    ca.write_text("pem")
    environment.setenv(f"{PREFIX}POSTGRES_TLS_CA", str(ca))
    environment.setenv(f"{PREFIX}POSTGRES_USER", uri)
    settings = load()
    for role in ("catalog", "user"):
        found = conninfo_to_dict(settings.database(role))
        assert found["sslrootcert"] == str(ca)
        assert found["sslmode"] == (mode if role == "user" else "verify-full")
    assert masks.mask(settings.database("catalog")).count(masks.MASK) == 1
    environment.setenv(f"{PREFIX}POSTGRES_USER", f"{uri.partition('?')[0]}?sslrootcert=/other")
    assert conninfo_to_dict(load().database("user"))["sslrootcert"] == "/other"


def test_the_ca_of_postgresql_is_not_undone_by_a_uri(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("pem")
    said = error_of(postgres_tls_ca=str(tmp_path / "ca.crt"), postgres_user="postgresql://shop@db/shop?sslmode=prefer")
    assert said == "postgres_tls_ca requires sslmode=verify-full in postgres_user, not 'prefer'"
    assert error_of(postgres_tls_ca="/no/such/file") == "postgres_tls_ca: cannot read /no/such/file: No such file or directory"


def test_a_group_that_is_not_there_is_refused() -> None:
    said = error_of(listen_socket_group="no-such-group")
    assert (
        said
        == "listen_socket_group: there is no group 'no-such-group' on this machine: use the name of an existing group, or a number"
    )


def test_a_file_of_tokens_that_cannot_be_read_is_refused() -> None:
    said = error_of(access_tokens_file="/no/such/file")
    assert said == "access_tokens_file: cannot read /no/such/file: No such file or directory"


@pytest.mark.parametrize("name", ["access_tokens_file", "listen_tls_key", "redis_tls_key", "redis_password_file"])
def test_a_secret_that_others_can_read_is_refused(tmp_path: Path, name: str) -> None:
    file = secret_file(tmp_path / "secret", "s3cret")
    file.chmod(0o644)
    said = error_of(**{name: str(file)})
    assert said == f"{name}: cannot read {file}: its mode 0644 gives all users access; chmod 600 removes it"


@pytest.mark.parametrize(
    ("variable", "close"),
    [("REDIS_NODE", "did you mean 'redis_nodes'?"), ("REDIS_PORT", ""), ("QZX", "see `cache-sidecar config`")],
)
def test_an_unknown_variable_is_refused(environment: pytest.MonkeyPatch, variable: str, close: str) -> None:
    environment.setenv(PREFIX + variable, SECRET)
    text = error_with()
    assert f"{PREFIX}{variable}: there is no setting {variable.lower()!r}" in text
    assert close in text


def test_an_unknown_name_in_the_file_is_refused(toml: Path) -> None:
    toml.write_text('redis_node = "a:1"\n')
    assert error_with(toml) == f"{toml}: there is no setting 'redis_node', did you mean 'redis_nodes'?"


def test_a_table_in_the_file_is_refused(toml: Path) -> None:
    toml.write_text('[redis]\nnodes = "a:1"\n')
    assert "there is no setting 'redis'" in error_with(toml)


def test_a_value_of_another_type_in_the_file_is_refused(toml: Path, environment: pytest.MonkeyPatch) -> None:
    environment.delenv(PREFIX + "POSTGRES_CATALOG")
    toml.write_text("postgres_catalog = 5\n")
    assert "postgres_catalog" in error_with(toml)


def test_what_is_no_toml_is_refused_with_its_line(toml: Path) -> None:
    toml.write_text(f'postgres_catalog = "{DSN}\n')
    text = error_with(toml)
    assert str(toml) in text
    assert "line 1" in text


def test_what_is_no_text_is_refused(toml: Path) -> None:
    toml.write_bytes(b"\xff\xfe\x00")
    assert f"{toml} is not TOML" in error_with(toml)


def test_a_missing_file_is_refused(toml: Path) -> None:
    assert error_with(toml) == f"cannot read the settings file {toml}: No such file or directory"


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    assert error_with(tmp_path) == f"cannot read the settings file {tmp_path}: Is a directory"


# Printing them


def test_every_setting_is_described_with_its_origin(toml: Path, environment: pytest.MonkeyPatch) -> None:
    toml.write_text('region = "eu"\nnamespace = "file"\n')
    environment.setenv(PREFIX + "NAMESPACE", "variable")
    lines = {line.name: line for line in describe(str(toml))}
    assert list(lines) == list(Settings.model_fields)
    assert (lines["region"].value, lines["region"].origin) == ("eu", str(toml))
    assert (lines["namespace"].value, lines["namespace"].origin) == ("variable", PREFIX + "NAMESPACE")
    assert lines["log_level"].origin == "default"
    assert lines["redis_nodes"].value == "127.0.0.1:6379"
    assert all(line.meaning for line in lines.values())


def test_secrets_are_never_shown(environment: pytest.MonkeyPatch) -> None:
    environment.setenv(PREFIX + "REDIS_PASSWORD", SECRET)
    settings = load()
    shown = f"{settings!r} {settings} {describe()} {settings.model_dump()} {settings.model_dump_json()}"
    assert SECRET not in shown
    assert settings.redis_password.get_secret_value() == SECRET


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().namespace = "other"


@pytest.mark.parametrize(
    ("address", "expected"),
    [("a:1", ("a", 1)), ("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:65535", ("::1", 65535))],
)
def test_addresses(address: str, expected: tuple[str, int]) -> None:
    assert split_address(address) == expected


@pytest.mark.parametrize(
    "address", ["", ":", "a", "a:", ":1", "a:-1", "a:65536", "a:1x", "a: 1", "http://a:1", "a/b:1", "u:p@a:1"]
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ValueError, match="must be host:port"):
        split_address(address)


def test_a_password_in_a_uri_is_not_quoted() -> None:
    assert (
        error_of(trace_endpoint="user:canary@otel:4317")
        == "trace_endpoint: must be host:port, such as 127.0.0.1:6379, not a URI"
    )


def test_everything_is_listed_also_while_what_is_needed_is_missing(environment: pytest.MonkeyPatch) -> None:
    for name in NEEDED:
        environment.delenv(PREFIX + name.upper())
    lines = {line.name: line for line in describe()}
    assert lines.keys() == Settings.model_fields.keys()
    for name in NEEDED:
        assert (lines[name].value, lines[name].origin) == ("", "required, not set")


def test_what_does_without_redis_need_not_say_where_it_is(environment: pytest.MonkeyPatch) -> None:
    environment.delenv(PREFIX + "REDIS_NODES")
    assert load(redis=False).database("catalog") == DSN
    with pytest.raises(SettingsError, match="redis_nodes is not set"):
        load()


def test_the_shop_s_model_needs_an_address() -> None:
    said = error_of(recommendation_generators="remote,popular")
    assert said == "recommendation_generators names remote, which requires recommendation_remote_address"


def test_a_fraction_of_traces_needs_where_to_send_them() -> None:
    assert error_of(trace_ratio="0.1") == "trace_ratio requires trace_endpoint, where traces are sent to"
    assert error_of(trace_endpoint="otel") == "trace_endpoint: 'otel' must be host:port, such as 127.0.0.1:6379"
