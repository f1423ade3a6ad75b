"""The commands of `kubectl cache-sidecar`. Modules that need gRPC or extras are imported when a command runs."""

import json
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cache_sidecar import __version__
from cache_sidecar.core.signals import run_to_end
from cache_sidecar.injector import commands as injector
from cache_sidecar.injector.container import NAME
from cache_sidecar.kubectl.program import Kubectl
from cache_sidecar.terminal import commands as terminal
from cache_sidecar.terminal.ranges import Range

if TYPE_CHECKING:
    from cache_sidecar.terminal.access import Access

R = TypeVar("R")

# What has pods. Whoever makes them is not asked for: a Deployment's ReplicaSets, and the pods of all.
_WORKLOADS = "deployments,statefulsets,daemonsets,jobs,cronjobs"
SELECTOR = "cache-sidecar.io/injected=true"
"Of the pods that have a sidecar."


def _asks_kubectl(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that say which cluster and namespace, as kubectl's; the command gets a Kubectl."""

    @wraps(command)
    def with_kubectl(namespace: str | None, context: str | None, kubeconfig: str | None, **more: Any) -> Any:
        named = {"namespace": namespace, "context": context, "kubeconfig": kubeconfig}
        return command(Kubectl(tuple(f"--{name}={value}" for name, value in named.items() if value)), **more)

    found: Callable[..., Any] = with_kubectl
    for option in (
        click.option("--kubeconfig", metavar="FILE", help="kubectl's configuration."),
        click.option("--context", metavar="NAME", help="The context in it."),
        click.option("-n", "--namespace", metavar="NAME", help="The namespace, by default that of the context."),
    ):
        found = option(found)
    return found


_pod = click.argument("pod", metavar="POD")
_expects = click.option(
    "--expect",
    "expected",
    default=__version__,
    show_default=True,
    metavar="VERSION",
    help="The version that sidecars should have.",
)


@click.command()
@click.argument("workloads", nargs=-1, required=True, metavar="KIND/NAME...")
@click.option("--apply", "applies", is_flag=True, help="Replace them in the cluster, instead of printing them.")
@injector.config_option
@_asks_kubectl
def inject(kubectl: Kubectl, *, workloads: tuple[str, ...], applies: bool, config_files: tuple[str, ...]) -> int:
    """Print workloads of the cluster with the sidecar injected, such as deployment/shop."""
    files = injector.import_files()
    read = [files.parse("the cluster", kubectl.run("get", *workloads, "-o", "yaml"))]
    done, results = injector.inject_files(read, config_files, by_label=False)
    code = injector.report(done, results, prints=not applies)
    if applies and not code:
        # With the version that was read: whoever changed it meanwhile wins, and kubectl says so.
        click.echo(kubectl.run("replace", "-f", "-", stdin=done[0].render(among_others=False)), nl=False)
    return code


@click.command()
@click.argument("workloads", nargs=-1, metavar="[KIND/NAME]...")
@injector.config_option
@_asks_kubectl
def check(kubectl: Kubectl, *, workloads: tuple[str, ...], config_files: tuple[str, ...]) -> int:
    """Report which workloads of a namespace would get a sidecar when their pods are created, and why others would not."""
    files = injector.import_files()
    found = kubectl.run("get", *(workloads or [_WORKLOADS]), "-o", "yaml")
    read = [files.parse("the namespace", found)]
    namespaces = {workload.namespace for workload in read[0].workloads({})}
    if namespaces:
        read.insert(0, files.parse("the cluster", kubectl.run("get", "namespace", *sorted(namespaces), "-o", "yaml")))
    done, results = injector.inject_files(read, config_files, by_label=True)
    return injector.report(done, results, prints=False)


@click.command()
@click.argument("pod", required=False, metavar="[POD]")
@click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="Of all namespaces.")
@_expects
@terminal.json_option
@terminal.access_options
@_asks_kubectl
def status(kubectl: Kubectl, *, pod: str | None, everywhere: bool, expected: str, as_json: bool, **access: Any) -> int:
    """List the sidecars of pods: their versions, which are outdated, and which do not serve; of POD, all that it says.

    Exits with 1 if any fails, and with 2 if the sidecar of POD does not answer.
    """
    if pod is not None:
        return run_to_end(_ask(kubectl, pod, access, lambda found: terminal.show_status(found, as_json=as_json)))
    from cache_sidecar.kubectl import pods  # noqa: PLC0415

    found = pods.read(kubectl.read("pods", "-l", SELECTOR, *(["-A"] if everywhere else [])))
    if as_json:
        click.echo(json.dumps(pods.as_json(found, expected), indent=2))
    elif not found:
        click.echo("no pod here has an injected sidecar")
    else:
        for line in pods.lines(found, expected):
            click.echo(line)
    return 1 if any(each.fails for each in found) else 0


@click.command()
@_pod
@terminal.watch_options
@terminal.access_options
@_asks_kubectl
def top(kubectl: Kubectl, *, pod: str, interval: float, count: int | None, **access: Any) -> None:
    """Show rates, hit ratios and what fails in the sidecar of POD, live; `q` ends it."""
    from cache_sidecar.terminal import top as module  # noqa: PLC0415

    run_to_end(_ask(kubectl, pod, access, lambda found: module.watch(found, interval=interval, count=count)))


async def _ask(kubectl: Kubectl, pod: str, options: dict[str, Any], ask: Callable[["Access"], Awaitable[R]]) -> R:
    """Returns what `ask` returns of the sidecar of a pod, which it reaches through kubectl."""
    from cache_sidecar.kubectl import pods  # noqa: PLC0415
    from cache_sidecar.terminal.access import Access  # noqa: PLC0415

    async with kubectl.forward(pod, pods.port(kubectl.read("pod", pod))) as address:
        return await ask(Access.read(address, **options))


@click.command()
@click.argument("pod", required=False, metavar="[POD]")
@click.option("-f", "--follow", is_flag=True, help="Go on as more is logged.")
@click.option("-p", "--previous", is_flag=True, help="Of the container before its restart.")
@click.option("--tail", type=click.IntRange(0), metavar="N", help="Only the last lines of each.")
@click.option("--since", metavar="DURATION", help="Only what is newer, such as 10m.")
@_asks_kubectl
def logs(kubectl: Kubectl, *, pod: str | None, follow: bool, previous: bool, tail: int | None, since: str | None) -> None:
    """Print the logs of the sidecar of POD, by default of all in the namespace."""
    whose = [pod] if pod else ["-l", SELECTOR, "--prefix", "--max-log-requests=100"]
    options = [name for name, is_set in {"--follow": follow, "--previous": previous}.items() if is_set]
    options += [f"{name}={value}" for name, value in {"--tail": tail, "--since": since}.items() if value is not None]
    kubectl.become("logs", *whose, "-c", NAME, *options)


@click.command()
@click.argument("pods", nargs=-1, metavar="[POD]...")
@click.option("--outdated", "only_outdated", is_flag=True, help="All of the namespace that have another version than expected.")
@_expects
@click.option("--timeout", default=300.0, show_default=True, type=Range(1, 86400), help="Seconds for each pod.")
@_asks_kubectl
def drain(kubectl: Kubectl, *, pods: tuple[str, ...], only_outdated: bool, expected: str, timeout: float) -> None:
    """Evict PODs one after the other, so that they are created again, with the sidecar of the present version.

    Keeps to disruption budgets, and waits until as many pods of the same controller are ready as before.
    """
    from cache_sidecar.kubectl import eviction  # noqa: PLC0415

    if bool(pods) == only_outdated:
        raise click.UsageError("name PODs, or --outdated")
    for line in eviction.run(kubectl, pods, expected, timeout=timeout):
        click.echo(line)


ALL = (inject, check, status, top, logs, drain)
