"""Builds, once, what the tests of raw stubs run: stubs for Node.js, Ruby and Rust, and the programs of their page.

    python -m tests.clients.stub_builds            # builds what is not there yet; says in a line what it cannot build
    python -m tests.clients.stub_builds --or-skip  # the same, but then their tests are left out, visibly

They are in folders of the user's cache (`XDG_CACHE_HOME`), named by all that they are made of. Delete them at will. Ruby is
Debian's, unpacked and not installed; crates and modules are pinned with hashes in `stubs/rust/Cargo.lock` and
`tests/interop/node/package-lock.json`. The commands and programs are those of `clients/other-languages.md`.
"""

import os
import re
import shutil
import sys
from pathlib import Path

from tests.clients.builds import CLIENTS, cached
from tests.clients.examples import blocks
from tests.e2e import build
from tests.interop.build import NODE, Client, fill_once, get_all, run
from tests.support.debian import unpack

PAGE = CLIENTS / "other-languages.md"
PROTOS = CLIENTS / "protos"
PROGRAMS = Path(__file__).parent / "stubs"
_RUST = PROGRAMS / "rust"
_NODE_LOCK = Path(__file__).parents[1] / "interop/node/package-lock.json"
# What `make test-long` waits for, all in all, when nothing is there yet; it takes two minutes on two cores.
_SECONDS = 900.0


def commands(title: str) -> list[str]:
    """Returns the commands of a section of the page."""
    section = PAGE.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return re.findall(r"^    (.*)$", re.sub(r"^```.*?^```$", "", section, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)


def _protos() -> list[Path]:
    return [path for path in PROTOS.rglob("*.proto") if path.is_file()]


def _ts_proto() -> Path:
    """Returns the folder with the stubs of ts-proto, compiled."""
    return cached("ts-proto", ("node", "npm"), [*_protos(), _NODE_LOCK, Path(__file__)])


def _get_ts_proto(deadline: float) -> None:
    NODE.get(deadline)

    def generate(new: Path) -> None:
        modules = NODE.path() / "node_modules"
        (new / "node_modules").symlink_to(modules)
        (new / "ts").mkdir()
        plugin = f"--plugin=protoc-gen-ts_proto={modules / '.bin/protoc-gen-ts_proto'}"
        options = ["outputServices=grpc-js", "esModuleInterop=true", "forceLong=bigint"]
        out = [f"--ts_proto_out={new / 'ts'}", f"--ts_proto_opt={','.join(options)}"]
        sources = sorted(str(path.relative_to(PROTOS)) for path in _protos())
        run([sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", plugin, *out, *sources], deadline=deadline)
        compiler = ["--strict", "--esModuleInterop", "--skipLibCheck", "--module", "commonjs", "--target", "es2022"]
        files = sorted(str(path) for path in (new / "ts").rglob("*.ts"))
        run(["npx", "tsc", *compiler, "--rootDir", "ts", "--outDir", "js", *files], folder=new, deadline=deadline)

    fill_once(_ts_proto(), generate)


def _packages() -> list[str]:
    """Returns the packages of Debian that the page names for Ruby."""
    return commands("Ruby")[0].removeprefix("apt-get install ").split()


def _debian() -> Path:
    """Returns the folder with these packages, and what they need."""
    return build.cache() / f"debian-{'-'.join(_packages())}"


def ruby_environment() -> dict[str, str]:
    """Returns the variables with which programs in that folder run as if they were installed."""
    usr = _debian() / "usr"
    libraries = list(usr.glob("lib/*-linux-gnu*"))
    folders = [folder for base in (usr / "lib", *libraries) for folder in (base / "ruby/vendor_ruby", base / "ruby")]
    gems = [*(usr / "share").glob("rubygems-integration/*"), *usr.glob("lib/*-linux-gnu*/rubygems-integration/*")]
    return {
        "PATH": f"{usr / 'bin'}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        # Those of a version of Ruby come before those of all.
        "RUBYLIB": ":".join(str(path) for folder in folders for path in (*folder.glob("[0-9]*"), folder)),
        "GEM_PATH": ":".join(map(str, gems)),
    }


def _ruby() -> Path:
    """Returns the folder with the stubs for Ruby, and the program of the page."""
    return cached("ruby", (), [*_protos(), PAGE, Path(__file__)])


def _get_ruby(deadline: float) -> None:
    def get_packages(new: Path) -> None:
        new.chmod(0o755)
        unpack(_packages(), new)

    def generate_stubs(new: Path) -> None:
        _, generate = commands("Ruby")
        variables = ruby_environment() | {"PROTOS": str(PROTOS)}
        run(
            ["env", *(f"{name}={value}" for name, value in variables.items()), "sh", "-ec", generate],
            folder=new,
            deadline=deadline,
        )
        (new / "shop.rb").write_text(blocks(PAGE, "ruby")[0])

    fill_once(_debian(), get_packages)
    fill_once(_ruby(), generate_stubs)


def _rust() -> Path:
    """Returns the folder with the programs in Rust: `shop`, that of the page, and `conformance`."""
    sources = [path for path in _RUST.rglob("*") if path.is_file()]
    return cached("rust", ("cargo",), [*sources, *_protos(), PAGE])


def _get_rust(deadline: float) -> None:
    def compile_programs(new: Path) -> None:
        source = new / "source"
        shutil.copytree(_RUST, source)
        (source / "shop/src").mkdir()
        for name, text in zip(("build.rs", "src/main.rs"), blocks(PAGE, "rust"), strict=True):
            (source / "shop" / name).write_text(text)
        # Kept, so that a change of a program does not compile all crates again.
        target = build.cache() / "client-rust-target"
        _, command = commands("Rust")
        locked = [*command.split(), "--quiet", "--locked", "--workspace", "--target-dir", str(target)]
        run(["env", f"PROTOS={PROTOS}", *locked], folder=source, deadline=deadline)
        for name in ("shop", "conformance"):
            shutil.copy(target / "debug" / name, new)

    fill_once(_rust(), compile_programs)


TS_PROTO = Client("the stubs of ts-proto", _ts_proto, _get_ts_proto)
RUBY = Client("the stubs for Ruby", _ruby, _get_ruby)
RUST = Client("the stubs for Rust", _rust, _get_rust)


if __name__ == "__main__":
    sys.exit(get_all("tests.clients.stub_builds", (NODE, TS_PROTO, RUBY, RUST), seconds=_SECONDS))
