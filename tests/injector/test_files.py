"""The commands `inject`, `uninject` and `check`."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from click.testing import CliRunner, Result
from ruamel.yaml import YAML

from cache_sidecar.cli import cli

# Ten lines that stand for four billion values.
BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 11))
SHOP = Path(__file__).parent / "files" / "shop.yaml"


def run(*arguments: str | Path, given: str = "") -> Result:
    """Runs a command in this process, as `main` would."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], input=given, prog_name="cache-sidecar")


def meaning(text: str) -> list[Any]:
    return [document for document in YAML(typ="safe").load_all(text) if document]


def test_every_workload_gets_the_sidecar() -> None:
    done = run("inject", "-f", SHOP)
    assert done.exit_code == 0
    assert done.stderr.splitlines() == [
        "Deployment/web inject",
        "StatefulSet/search inject",
        "DaemonSet/agent skip host_network: the pod uses the node's network, where the sidecars of several pods would need the same port",
        "Job/once inject",
        "CronJob/nightly skip opted_out: the pod has the label cache-sidecar.io/inject: disabled",
        "Pod/single inject",
    ]
    for document in meaning(done.stdout):
        for thing in document["items"] if document["kind"] == "List" else [document]:
            kubernetes_validate.validate(thing, "1.37", strict=True)
    namespace, web, *_ = meaning(done.stdout)
    assert web["spec"]["template"]["spec"]["initContainers"][0]["name"] == "cache-sidecar"
    assert namespace == meaning(SHOP.read_text())[0]


def test_comments_quotes_and_indentation_stay() -> None:
    text = run("inject", "-f", SHOP).stdout
    for line in SHOP.read_text().splitlines():
        if ("#" in line or "'" in line) and "Nothing" not in line:
            assert line.strip().partition("   #")[0] in text
    assert "        - name: cache-sidecar\n" in text


def test_comments_before_the_first_document_stay() -> None:
    head = "# Copyright\n\n# of the shop\n---\n"
    text = head + "kind: Pod\nmetadata: {name: x}\nspec:\n  containers: [{name: a}]\n"
    injected = run("inject", "-f", "-", given=text).stdout
    assert injected.startswith(head)
    assert run("inject", "-f", "-", given=injected).stdout == injected
    assert run("uninject", "-f", "-", given=injected).stdout == text


def test_what_was_injected_is_taken_out_again() -> None:
    injected = run("inject", "-f", SHOP)
    back = run("uninject", "-f", "-", given=injected.stdout)
    assert back.exit_code == 0
    assert meaning(back.stdout) == meaning(SHOP.read_text())
    assert run("uninject", "-f", "-", given=back.stdout).stdout == back.stdout


def test_injecting_again_changes_nothing() -> None:
    once = run("inject", "-f", SHOP).stdout
    assert run("inject", "-f", "-", given=once).stdout == once


def test_injecting_again_brings_it_up_to_date(tmp_path: Path) -> None:
    config = tmp_path / "injector.toml"
    config.write_text('[sidecar]\nimage = "registry.example/cs:2"\n')
    old = run("inject", "-f", SHOP).stdout
    assert (
        run("inject", "-f", "-", "--config", config, given=old).stdout == run("inject", "-f", SHOP, "--config", config).stdout
    )


def test_a_classic_container_for_an_old_cluster() -> None:
    text = run("inject", "-f", SHOP, "--kubernetes-version", "v1.27.4").stdout
    web = meaning(text)[1]["spec"]["template"]
    assert [each["name"] for each in web["spec"]["containers"]] == ["cache-sidecar", "web"]
    assert meaning(run("uninject", "-f", "-", given=text).stdout) == meaning(SHOP.read_text())


def test_check_says_what_would_be_done_and_prints_no_file() -> None:
    done = run("check", "-f", SHOP, "--by-label")
    assert done.exit_code == 0
    assert "Deployment/web inject\n" in done.stdout
    reason = "not_enabled: neither the pod nor its namespace has the label cache-sidecar.io/inject: enabled"
    assert f"Pod/single skip {reason}\n" in done.stdout
    assert "apiVersion" not in done.stdout


def test_a_bad_annotation_prints_no_file() -> None:
    pod = "kind: Pod\nmetadata: {name: x, annotations: {cache-sidecar.io/port: '80'}}\nspec: {containers: [{name: a}]}\n"
    done = run("inject", "-f", "-", given=pod)
    line = "Pod/x deny cache-sidecar.io/port: '80' must be a port from 1024 to 65535, or none\n"
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", line)
    assert run("check", "-f", "-", given=pod).stdout == line


def test_several_files_are_one_stream(tmp_path: Path) -> None:
    pod = tmp_path / "pod.yaml"
    pod.write_text("kind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: a}]}\n")
    kinds = [document["kind"] for document in meaning(run("inject", "-f", pod, "-f", pod).stdout)]
    assert kinds == ["Pod", "Pod"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [", "standard input:1:5: invalid YAML: "),
        ("a: 1\na: 2\n", 'standard input:2:1: invalid YAML: found duplicate key "a"'),
        ("[" * 500, "standard input: invalid YAML: "),
        (BOMB, "standard input: invalid YAML: with its aliases written out, it has more than 1,000,000 values"),
        ("kind: Service\n", "no workload found in standard input"),
        ("", "no workload found in standard input"),
        ("kind: Deployment\nmetadata: {name: x}\nspec: {}\n", "Deployment/x: spec.template is missing"),
        ("kind: CronJob\n", "CronJob/?: spec is missing"),
    ],
)
def test_what_cannot_be_read(text: str, line: str) -> None:
    done = run("inject", "-f", "-", given=text)
    assert (done.exit_code, done.stdout) == (64, "")
    assert done.stderr.startswith(f"cache-sidecar: {line}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("pod", "problem"),
    [
        ("5", "a pod must be an object"),
        ("{}", "spec: Field required"),
        ("{spec: {containers: 5}}", "spec.containers: Input should be a valid list"),
        ("{spec: {containers: [{name: 5}]}}", "spec.containers.0.name: Input should be a valid string"),
        (
            "{metadata: {annotations: {cache-sidecar.io/port: 80}}, spec: {}}",
            "metadata.annotations.cache-sidecar.io/port: Input should be a valid string: quote it",
        ),
        ("{spec: {containers: [{name: a, env: [{value: x}]}]}}", "spec.containers.0.env.0.name: Field required"),
    ],
)
def test_what_is_no_pod(pod: str, problem: str) -> None:
    text = f"kind: Deployment\nmetadata: {{name: x}}\nspec: {{template: {pod}}}\n"
    for command in ("inject", "check", "uninject"):
        done = run(command, "-f", "-", given=text)
        assert (done.exit_code, f"Deployment/x deny {problem}\n") == (1, done.output)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff")
    assert run("inject", "-f", tmp_path / "none").stderr.endswith("No such file or directory\n")
    assert run("inject", "-f", tmp_path / "x").stderr.endswith("x is not UTF-8\n")


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ("x = 1", "unknown key x; known keys: kubernetes_version, bad_annotations, sidecar, "),
        ("[sidecar]\nl1-size = '1Mi'", "unknown key sidecar.l1-size; known keys: image, "),
        ("[sidecar]\nl1_size = 'x'", "sidecar.l1_size: 'x' must be a quantity, such as 250m or 320Mi"),
        ("bad_annotations = 'no'", "bad_annotations: must be 'deny' or 'skip'"),
        ("kubernetes_version = '1.9'", "kubernetes_version: Kubernetes 1.9 is older than 1.25"),
        ("kubernetes_version = 'new'", "kubernetes_version: 'new' must be a Kubernetes version, such as 1.34"),
        ("sidecar = 1", "sidecar: "),
        ("x =", "is not valid TOML"),
    ],
)
def test_a_wrong_configuration(tmp_path: Path, config: str, line: str) -> None:
    file = tmp_path / "injector.toml"
    file.write_text(config)
    done = run("inject", "-f", SHOP, "--config", file)
    assert (done.exit_code, done.stdout) == (64, "")
    assert line in done.stderr


def test_a_configuration_that_is_not_there() -> None:
    done = run("check", "-f", SHOP, "--config", "/nowhere")
    assert (done.exit_code, done.stderr) == (
        64,
        "cache-sidecar: cannot read the injector's configuration /nowhere: No such file or directory\n",
    )


UNUSUAL = """\
%YAML 1.2
---
# A licence
---
null
---
apiVersion: v1
kind: ConfigMap
metadata: {name:   c}
data:
    a:   'b'  # not ours
...
---
apiVersion: apps/v1
kind: Deployment
metadata:
    name:   web
    labels: &labels   # shared
        app: web
spec:
    selector:
        matchLabels: *labels
    template:
        metadata:
            labels: *labels
        # before the spec
        spec:
            initContainers:
            # the first one
            - name: init\t# a tab
              args: ["a",  # why
                     'b']
            containers:
            -   name: web\t
                image: web   # of the shop
                resources:
                    {}
                env:
                  - {name: A, value:   "b"}

            # volumes
            volumes:
            -   name: v
                emptyDir: {}
            # groups
            securityContext:
                supplementalGroups: [1, 2] # two
# the end"""


@pytest.mark.parametrize(
    "raw",
    [
        UNUSUAL.encode(),
        f"\ufeff{UNUSUAL}\n".encode(),
        UNUSUAL.replace("\n", "\r\n").encode(),
        UNUSUAL.replace("\n", "\r\n", 9).encode(),
    ],
    ids=["no last line end", "mark", "windows", "both line ends"],
)
def test_every_byte_is_restored(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "web.yaml"
    path.write_bytes(raw)
    injected = run("inject", "-f", path)
    assert injected.exit_code == 0
    assert set(raw.split(b"\n")) - set(injected.stdout_bytes.split(b"\n")) <= {
        line
        for line in raw.split(b"\n")
        if any(changed in line for changed in (b"labels: *", b"supplementalGroups", b"the end", b"env:"))
    }
    path.write_bytes(injected.stdout_bytes)
    assert run("inject", "-f", path).stdout_bytes == injected.stdout_bytes
    assert run("uninject", "-f", path).stdout_bytes == raw


def test_what_was_empty_stays_where_it_is() -> None:
    text = "kind: Pod\nmetadata: {name: x}\nspec:\n  securityContext: {}\n  containers:\n    - name: a\n      image: b\n"
    assert run("uninject", "-f", "-", given=run("inject", "-f", "-", given=text).stdout).stdout == text


def test_a_container_without_a_name() -> None:
    text = "apiVersion: serving.knative.dev/v1\nkind: Service\nspec:\n  template:\n    spec:\n      containers:\n      - image: a\n"
    injected = run("inject", "-f", "-", given=text)
    assert injected.stderr == "Service/? inject\n"
    assert meaning(injected.stdout)[0]["spec"]["template"]["spec"]["containers"][0]["env"]
    assert run("uninject", "-f", "-", given=injected.stdout).stdout == text


def test_check_reports_all_workloads_though_one_is_denied() -> None:
    pod = "kind: Pod\nmetadata: {{name: {0}}}\nspec: {{containers: [{{name: {0}}}]}}\n---\n"
    text = "".join(pod.format(name) for name in ("a", 5, "c"))
    done = run("check", "-f", "-", given=text)
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["Pod/a", "inject"],
        ["Pod/5", "deny"],
        ["Pod/c", "inject"],
    ]
    assert done.exit_code == 1
