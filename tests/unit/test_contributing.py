"""What the guides in `.github` name is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".github"
GUIDES = sorted(HOME.rglob("*.md"))


def test_every_file_that_contributing_names_is_there() -> None:
    named = set(re.findall(r"`([\w./-]+/[\w./-]+)`", (HOME / "CONTRIBUTING.md").read_text()))
    # The dataset of the walk is made up.
    files = {name for name in named if not re.search(r"wishlist|NNNN", name)}
    assert len(files) > 8
    assert {name for name in files if not (ROOT / name).exists()} == set()


def test_every_target_that_the_guides_name_is_one() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for guide in (HOME / "CONTRIBUTING.md", HOME / "PULL_REQUEST_TEMPLATE.md", ROOT / "README.md", ROOT / "tests/README.md"):
        named = re.findall(r"(?:`|^)make (?:[A-Z]+=\S+ )?([a-z0-9-]+)", guide.read_text(), re.MULTILINE)
        assert set(named) <= targets, guide


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: str(guide.relative_to(HOME)))
def test_links_lead_somewhere(guide: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", guide.read_text())
    assert {link for link in links if not link.startswith("http") and not (guide.parent / link).exists()} == set()


def test_the_index_has_every_decision_with_its_title() -> None:
    records = sorted((HOME / "decisions").glob("0*.md"))
    rows = []
    for record in records:
        number, title = re.match(r"# (\d+)\. (.+)\n", record.read_text()).groups()  # type: ignore[union-attr]
        assert record.name.startswith(f"{int(number):04}-")
        rows.append(f"| [{number}]({record.name}) | {title} |")
    index = (HOME / "decisions/README.md").read_text().splitlines()
    assert [line for line in index if line.startswith("| [")] == rows
