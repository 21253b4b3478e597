"""The walls of the house: who may import whom, how long a file may be, what may not be in it."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from methods.registry import METHODS

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for top in ("methods", "bench") for path in (ROOT / top).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
TEXTS = [
    path
    for path in [
        *ROOT.glob("*"),
        *(ROOT / ".ci").glob("*"),
        *(ROOT / "bench").rglob("*"),
        *(ROOT / "methods").rglob("*"),
        *(ROOT / "datasets").rglob("*"),
    ]
    if path.suffix in {".py", ".md", ".toml", ".yaml", ".yml", ".cff", ".lock", ".csv"}
    or path.name in {"Makefile", "run"}
]
LIGHT = ["bench.cli", "bench.report.run", "bench.records", "bench.evaluate.commands", "bench.evaluate.parity",
         "bench.data.cards", "methods.registry"]  # fmt: skip
# From the top; a floor imports nothing of those above it. Modules of bench itself stand at the bottom.
FLOORS = ("cli", "inference", "report", "experiments", "latency", "evaluate", "train", "refmoji", "data", "bottom")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(path: Path) -> list[str]:
    name = module_name(path).split(".")
    return name if path.name == "__init__.py" else name[:-1]


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(path: Path, tree: ast.AST, at_run_time: bool = False) -> set[str]:
    """Absolute names that a file imports, those inside functions included; `from a import b` gives a and a.b."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if at_run_time and is_for_types_only(node):
            continue
        if at_run_time and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package_of(path)[: len(package_of(path)) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
        found |= imports(path, node, at_run_time)
    return found


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


IMPORTS = {path: imports(path, parse(path)) for path in SOURCES}


def offenders(top: str, forbidden) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path, names in IMPORTS.items()
        if within(module_name(path), top)
        for name in sorted(names)
        if forbidden(name)
    ]


def test_there_is_something_to_check():
    assert len(SOURCES) > 10


def test_methods_know_nothing_of_the_harness():
    assert offenders("methods", lambda name: within(name, "bench")) == []


def test_a_method_never_imports_another():
    names = {path.name for path in (ROOT / "methods").iterdir() if path.is_dir() and not path.name.startswith("__")}
    shared = {"internvl", "common"}  # what all methods stand on
    for name in names - shared:
        others = names - shared - {name}
        assert (
            offenders(
                f"methods.{name}", lambda found, others=others: any(within(found, f"methods.{o}") for o in others)
            )
            == []
        )
    for name in sorted(shared):
        above = names - shared | ({"internvl"} if name == "common" else set())
        assert (
            offenders(f"methods.{name}", lambda found, above=above: any(within(found, f"methods.{o}") for o in above))
            == []
        )


def test_the_harness_names_a_method_only_through_the_registry():
    known = ("base", "check", "common", "files", "images", "registry", "parity", "protocols", "flops", "precision")

    def allowed(name: str) -> bool:
        return name == "methods" or any(within(name, f"methods.{part}") for part in known)

    assert offenders("bench", lambda name: within(name, "methods") and not allowed(name)) == []


@pytest.mark.parametrize("path", [path for path in SOURCES if within(module_name(path), "bench")], ids=module_name)
def test_the_harness_imports_no_method_by_a_string(path):
    strings = {
        node.value for node in ast.walk(parse(path)) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert [text for text in strings if re.fullmatch(r"methods\.(?!base|registry)[\w.:]+", text)] == []


def texts_of(tree: ast.Module) -> list[str]:
    """The strings of a file that are no docstrings."""
    bodies = [node.body[0] for node in ast.walk(tree) if isinstance(getattr(node, "body", None), list) and node.body]
    docs = {id(first.value) for first in bodies if isinstance(first, ast.Expr)}
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docs]
    return [node.value for node in nodes if isinstance(node.value, str)]


def test_no_code_of_the_harness_names_a_method():
    """Profiles, claims and protocols are data (YAML); bench/data alone names forms of files by their papers."""
    names = re.compile("|".join(METHODS.keys() - {"boxes"}), re.IGNORECASE)  # an ordinary word
    found = []
    for path in SOURCES:
        if within(module_name(path), "bench") and not within(module_name(path), "bench.data"):
            tree = parse(path)
            names_used = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
            wrong = [text for text in (*texts_of(tree), *names_used) if names.search(text)]
            found += [f"{module_name(path)}: {text}" for text in wrong]
    assert found == []


def edges(depth: int | None = None) -> dict[str, set[str]]:
    """Module of bench -> modules of bench that it imports; to `depth` parts of their names, packages instead."""
    names = {module_name(path) for path in SOURCES if within(module_name(path), "bench")}
    found: dict[str, set[str]] = {}
    for path, imported in IMPORTS.items():
        source = ".".join(module_name(path).split(".")[:depth])
        if module_name(path) in names:
            targets = {".".join(name.split(".")[:depth]) for name in imported & names}
            found.setdefault(source, set()).update(targets - {source})
    return found


def test_no_circle_between_files_or_packages_of_the_harness():
    TopologicalSorter(edges()).prepare()  # raises CycleError with the circle
    packages = {name: targets - {"bench"} for name, targets in edges(2).items()}
    TopologicalSorter(packages).prepare()


def floor(name: str) -> str:
    part = (name.split(".") + [""])[1]
    return part if part in FLOORS else "bottom"


def test_no_floor_of_the_harness_imports_one_above_it():
    found = [
        f"{source} imports {target}"
        for source, targets in edges().items()
        for target in sorted(targets)
        if FLOORS.index(floor(target)) < FLOORS.index(floor(source)) and source != "bench.__main__"
    ]
    assert found == []


def test_evaluation_and_training_do_not_know_each_other():
    assert offenders("bench.evaluate", lambda name: within(name, "bench.train")) == []
    assert offenders("bench.train", lambda name: within(name, "bench.evaluate")) == []


def test_reports_and_scores_reach_no_torch_in_the_source():
    """Follow the imports that run when a module is loaded, inside this project, from the light modules."""
    by_name = {module_name(path): path for path in SOURCES}
    todo, seen, guilty = [name for name in by_name if within(name, "bench.report")] + LIGHT, set(), []
    while todo:
        name = todo.pop()
        if name in seen or name not in by_name:
            continue
        seen.add(name)
        for found in imports(by_name[name], parse(by_name[name]), at_run_time=True):
            if within(found, "torch") or within(found, "transformers"):
                guilty.append(f"{name} imports {found}")
            todo.append(found)
        todo += [".".join(name.split(".")[:i]) for i in range(1, name.count(".") + 1)]
    assert guilty == []
    assert "bench.records" in seen


def test_light_modules_load_without_torch():
    """Scores, comparisons, reports and the checks of metrics run where torch is not installed."""
    heavy = {"torch", "transformers", "deepspeed"}
    code = f"import sys, {', '.join(LIGHT)}; sys.exit(bool({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_command_line_answers_before_anything_large_is_imported():
    """`genseg --help` and a mistyped command cost no import of numpy or of the profiles' libraries."""
    code = "import sys, bench.cli; sys.exit(bool({'numpy', 'PIL', 'yaml', 'omegaconf', 'rich'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("files", [SOURCES, TESTS], ids=["sources", "tests"])
def test_nine_functions_in_ten_are_shorter_than_20_lines(files):
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    functions = [node for path in files for node in ast.walk(parse(path)) if isinstance(node, kinds)]
    lengths = sorted(node.end_lineno - node.lineno + 1 for node in functions)
    assert lengths[9 * len(lengths) // 10] < 20


def test_no_file_is_longer_than_450_lines():
    files = [*SOURCES, *TESTS]
    assert [str(path.relative_to(ROOT)) for path in files if len(path.read_text().splitlines()) > 450] == []


def test_no_python_under_datasets():
    """A module there would shadow the Hugging Face package of the same name."""
    assert list((ROOT / "datasets").rglob("*.py")) == []


def test_no_path_of_some_machine():
    private = re.compile(r"(?<![\w.])/(?:home|root|tmp|Users|work|mnt|opt)/\w")
    found = [str(path.relative_to(ROOT)) for path in TEXTS if private.search(path.read_text(encoding="utf-8"))]
    assert found == []


def calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(parse(path)) if isinstance(node, ast.Call)]


def test_images_are_opened_in_named_formats_alone():
    """Pillow tries all of its formats otherwise, and starts Ghostscript for one of them."""
    opened = [(path, call) for path in SOURCES for call in calls(path) if ast.unparse(call.func) == "Image.open"]
    assert len(opened) > 3
    free = [path for path, call in opened if "formats" not in {word.arg for word in call.keywords}]
    assert [str(path.relative_to(ROOT)) for path in free] == []


def test_only_one_place_escapes_for_the_terminal():
    """`bench.terminal.cell` takes control characters out too, which rich's own function does not."""
    users = [path for path, names in IMPORTS.items() if "rich.markup.escape" in names]
    assert [module_name(path) for path in users] == ["bench.terminal"]
