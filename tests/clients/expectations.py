"""Compares what a program reported with what a case expects, as `clients/conformance/README.md` says."""

import re
from collections.abc import Callable, Iterator
from typing import Any

_MISSING = object()
_FORMS = {"set", "gte", "lte", "length", "contains", "in", "not"}


def problems(case: dict[str, Any], line: dict[str, Any], run: str) -> list[str]:
    """Returns what is wrong with the reported results of a case, each a sentence; none if it passed."""
    if not line["ok"]:
        return [f"the program could not go on: {line.get('why', 'it does not say why')}; results so far: {line['got']}"]
    if len(line["got"]) != len(case["steps"]):
        return [f"{len(case['steps'])} steps have {len(line['got'])} results"]
    return [problem for steps in [_steps(case["steps"], line["got"], {"run": run})] for problem in steps]


def _steps(steps: list[dict[str, Any]], results: list[Any], variables: dict[str, Any]) -> Iterator[str]:
    for number, (step, result) in enumerate(zip(steps, results, strict=True), 1):
        where = f"step {number} ({step['call']})"
        # Those that this step saves may be expected in its own result; those of `during` come before.
        if "during" in step and isinstance(result, dict) and "during" in result:
            yield from (f"{where}: {problem}" for problem in _steps(step["during"], result["during"], variables))
        for name, path in step.get("save", {}).items():
            variables[name] = find(result, path)
        yield from (f"{where}: {problem}" for problem in _step(step, result, variables))


def _step(step: dict[str, Any], result: dict[str, Any], variables: dict[str, Any]) -> Iterator[str]:
    error = result.get("error")
    if "error" in step:
        if error is None:
            yield f"it succeeded, expected {step['error']}: {result}"
        else:
            yield from _compare_error(error, filled(step["error"], variables))
    elif error is not None:
        yield f"it failed: {error}"
    else:
        for path, expected in filled(step.get("expect", {}), variables).items():
            found = find(result, path)
            if not _matches(found, expected):
                yield f"{path} is {_shown(found)}, expected {expected!r}"


def _compare_error(error: dict[str, Any], expectations: dict[str, Any]) -> Iterator[str]:
    for key, expected in expectations.items():
        found = error.get(key, _MISSING)
        if isinstance(expected, dict) and not expected.keys() <= _FORMS:
            entries = found if isinstance(found, dict) else {}
            for name, value in expected.items():
                if not _matches(entries.get(name, _MISSING), value):
                    yield f"{key} of the error has {name} = {_shown(entries.get(name, _MISSING))}, expected {value!r}: {error}"
        elif not _matches(found, expected):
            yield f"{key} of the error is {_shown(found)}, expected {expected!r}: {error}"


def _shown(value: Any) -> str:
    return "missing" if value is _MISSING else repr(value)


def find(value: Any, path: str) -> Any:
    """Returns what is at a path; keys of maps may contain dots, so the longest key that is there counts."""
    if not path:
        return value
    if isinstance(value, list):
        number, _, rest = path.partition(".")
        name, is_named, wanted = number.partition("=")
        if is_named:
            return find(next((one for one in value if find(one, name) == wanted), _MISSING), rest)
        return find(value[int(number)], rest) if int(number) < len(value) else _MISSING
    if isinstance(value, dict):
        for key in sorted(value, key=len, reverse=True):
            if path == key or path.startswith(f"{key}."):
                return find(value[key], path[len(key) + 1 :])
    return _MISSING


def filled(value: Any, variables: dict[str, Any]) -> Any:
    """Returns a value in which the names of variables are replaced by their values."""
    if isinstance(value, dict):
        return {filled(key, variables): filled(entry, variables) for key, entry in value.items()}
    if isinstance(value, list):
        return [filled(entry, variables) for entry in value]
    if not isinstance(value, str):
        return value
    if (whole := re.fullmatch(r"\{(\w+)\}", value)) and whole[1] in variables:
        return variables[whole[1]]
    return re.sub(r"\{(\w+)\}", lambda found: str(variables.get(found[1], found[0])), value)


def _matches(found: Any, expected: Any) -> bool:
    if isinstance(expected, dict) and expected and expected.keys() <= _FORMS:
        return all(_has_form(found, form, value) for form, value in expected.items())
    if _is_default(expected):
        return _is_default(found)
    if isinstance(expected, float):
        return isinstance(found, int | float) and abs(found - expected) < 1e-9
    return bool(found == expected)


def _has_form(found: Any, form: str, value: Any) -> bool:
    number = found if isinstance(found, int | float) else 0
    forms: dict[str, Callable[[], bool]] = {
        "set": lambda: _is_default(found) is not value,
        "gte": lambda: number >= value,
        "lte": lambda: number <= value,
        "length": lambda: (len(found) if hasattr(found, "__len__") else 0) == value,
        "contains": lambda: hasattr(found, "__contains__") and value in found,
        "in": lambda: any(_matches(found, each) for each in value),
        "not": lambda: not _matches(found, value),
    }
    return forms[form]()


def _is_default(value: Any) -> bool:
    """A field that is not set may be missing: these are the same."""
    return value is _MISSING or value is None or value in ("", 0, False, [], {}) or value == "UNSPECIFIED"
