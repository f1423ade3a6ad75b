"""The entry points: `cache-sidecar`, or `python -m cache_sidecar`, and the plugin `kubectl cache-sidecar`."""

import os
import signal
import sys


def open_standard_streams() -> None:
    """Opens /dev/null in place of standard streams that the parent process has closed.

    Otherwise the next files get their numbers: what libraries print would go into a connection, and uvloop aborts when it
    closes one of the three.
    """
    for number, (name, mode) in enumerate([("stdin", "r"), ("stdout", "w"), ("stderr", "w")]):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number, which is this one. Child processes inherit it.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  # open for as long as the process


def main(*, is_plugin: bool = False) -> None:
    """Sets environment variables that gRPC reads when it is imported, then runs the command."""
    open_standard_streams()
    # Ctrl-C while modules are imported ends the process without a traceback; from then on the command handles it.
    is_handled = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not if the parent ignores it
    if is_handled:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # The listener that is the default since gRPC 1.80 costs the asyncio server a third of its throughput.
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")
    # C-core's own messages, such as about malformed requests or a port in use, don't have the format of our log, and such
    # errors are reported anyway.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from cache_sidecar.cli import cli, plugin  # noqa: PLC0415  # after the variables are set

    if is_handled:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if is_plugin:
        plugin.main(prog_name="kubectl cache-sidecar")
    cli.main(prog_name="cache-sidecar")


def main_of_plugin() -> None:
    """Runs a command of the plugin: kubectl finds `kubectl-cache_sidecar` in PATH."""
    main(is_plugin=True)


if __name__ == "__main__":
    main()
