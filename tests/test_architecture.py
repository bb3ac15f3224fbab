"""The rules of the house as tests: budgets, names, imports, flags, docstrings, recipes, forbidden calls."""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import os
import re
import subprocess
import sys
import tokenize
from functools import cache
from pathlib import Path

import pytest

from brodmann import cli, verbs

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "brodmann"
FILES = sorted(SRC.rglob("*.py"))
RECIPES = sorted((SRC / "recipes").glob("*.toml"))

FILE_LINES, CLI_LINES, SPINE_LINES, RECIPE_LINES = 400, 360, 3200, 45
SPINE = (
    "atomic", "checkpoint", "compute", "environment", "errors", "features", "ledger", "lock", "manifest", "progress",
    "run", "samples", "settings", "signals", "space", "splits", "systems", "train", "weights",
)  # fmt: skip
"""What every system shares, in the order of the alphabet; verbs, tasks and maps stand on it."""

FORBIDDEN_NAMES = ("utils", "helpers", "common", "misc", "base", "manager", "engine", "old")

FLAGS = {
    "recipes": [],
    "fit": ["RECIPE", "--data", "--out", "--start", "--set", "--threads"],
    "embed": ["RUN", "--data", "--set", "--out", "--controls", "--no-controls"],
    "score": [
        "RUN", "TASK", "--target", "--by", "--fold", "--buffer-mm", "--probe", "--against", "--atlas", "--k", "--at",
    ],
    "map": ["RUN", "TARGET", "--out", "--surface", "--within-mm"],
    "explain": ["RUN", "TARGET", "--areas", "--each", "--out"],
    "export": [
        "RUN", "--to", "--out", "--target", "--onto", "--pixel-um", "--voxel-mm", "--within-mm", "--features",
        "--no-features", "--url", "--replace", "--no-replace",
    ],
    "view": ["RUNS", "--port", "--browser", "--no-browser"],
    "pipeline": ["RECIPE", "--data", "--out", "--start", "--set", "--target", "--k", "--processes"],
    "convert": ["LAYOUT", "FILE", "--out"],
    "validate": ["DATA", "--picture"],
    "check": [],
}  # fmt: skip
"""The command line, frozen: a changed line here is a changed promise and belongs in CHANGELOG.md."""


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


# ---------------------------------------------------------------------------------------------------------- budgets


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_a_file_fits_its_budget(path):
    limit = CLI_LINES if path.name == "cli.py" else FILE_LINES
    assert lines(path) <= limit, f"{relative(path)} has {lines(path)} lines; split it by what it knows"


def test_the_spine_fits_its_budget():
    present = {path.stem for path in SRC.glob("*.py")} - {"__init__"}
    total = sum(lines(SRC / f"{name}.py") for name in SPINE if name in present)
    assert set(SPINE) <= present, f"the list of this test is outdated: {sorted(set(SPINE) - present)}"
    assert total <= SPINE_LINES, f"the spine has {total} lines"


def test_no_file_has_a_name_that_says_nothing():
    parts = {part for path in FILES for part in (*path.relative_to(SRC).parts[:-1], path.stem)}
    found = {part for part in parts for word in part.strip("_").split("_") if word in FORBIDDEN_NAMES}
    assert not found, f"name files by what they know: {sorted(found)}"


# ---------------------------------------------------------------------------------------------- nothing at import


def python(code: str, cwd: Path) -> str:
    """Run code in a fresh interpreter whose home and working folder are ``cwd``."""
    environment = {**os.environ, "HOME": str(cwd), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_importing_the_package_imports_nothing_heavy_and_writes_nothing(tmp_path):
    loaded = python("import sys, brodmann; print(*sorted({name.split('.')[0] for name in sys.modules}))", tmp_path)
    heavy = {
        "torch",
        "numpy",
        "pandas",
        "scipy",
        "sklearn",
        "matplotlib",
        "transformers",
        "zarr",
        "anndata",
        "pydantic",
    }
    assert "brodmann" in loaded.split()
    assert not heavy & set(loaded.split())
    assert not list(tmp_path.rglob("*"))


EVERYTHING = """
import logging, socket, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        extras = {"tensorstore", "umap", "nrrd", "faiss", "pynwb", "hdmf", "retinawhitenoise", "siibra",
                  "starlette", "uvicorn"}
        if name.split(".")[0] in extras:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
def refuse(*_): raise AssertionError("network at import")
socket.socket.connect = refuse
import numpy, torch
def state():
    return torch.get_rng_state().tolist(), numpy.random.get_state()[1].tolist(), torch.get_num_threads()
torch.manual_seed(7); numpy.random.seed(7)
before = state()
import importlib, pkgutil, brodmann
names = sorted(m.name for m in pkgutil.walk_packages(brodmann.__path__, "brodmann."))
for name in names:
    importlib.import_module(name)
assert before == state(), "a random state or the number of threads changed"
assert not any(type(h).__module__.startswith(("rich", "brodmann")) for h in logging.getLogger().handlers)
print(len(names))
"""


def test_every_module_imports_without_extras_and_leaves_no_trace(tmp_path):
    """Extras are imported where they are used; no module draws, connects, logs or writes when imported."""
    count = int(python(EVERYTHING, tmp_path))
    assert count >= len(SPINE)
    # Matplotlib keeps a list of fonts, wherever it is first imported; that folder is its own business.
    left = [p for p in tmp_path.rglob("*") if p.is_file() and "matplotlib" not in p.as_posix()]
    assert not left


def test_the_public_names_exist_and_stay_verbs(tmp_path):
    """A verb must not turn into the module of the same name once that module has been imported."""
    names = python(
        "import brodmann as bm, importlib, pkgutil\n"
        "[getattr(bm, name) for name in bm.__all__]\n"
        "[importlib.import_module(m.name) for m in pkgutil.iter_modules(bm.__path__, 'brodmann.')]\n"
        "print(*[name for name in bm.__all__ if not callable(getattr(bm, name))])",
        tmp_path,
    )
    assert names.split() == []


# -------------------------------------------------------------------------------------------------- the command line


def options(verb: str, capsys) -> set[str]:
    with pytest.raises(SystemExit):
        cli.main([verb, "--help"])
    text = capsys.readouterr().out
    rows = [row.strip("│ ") for row in text.splitlines() if row.strip("│ ").startswith("-")]
    return {flag for row in rows for flag in re.findall(r"--[a-z][a-z-]*", re.split(r"\s{2,}", row)[0])} - {"--help"}


def test_the_verbs_are_frozen():
    assert list(cli.VERBS) == list(FLAGS)


@pytest.mark.parametrize("verb", FLAGS)
def test_the_flags_are_frozen(verb, capsys):
    assert options(verb, capsys) == {flag for flag in FLAGS[verb] if flag.startswith("--")}
    positional = [
        name.upper()
        for name, parameter in inspect.signature(cli.VERBS[verb]).parameters.items()
        if "Positional" in str(parameter.annotation)
    ]
    assert positional == [flag for flag in FLAGS[verb] if not flag.startswith("--")]


# ------------------------------------------------------------------------------------------------------- docstrings


def documented(doc: str, section: str) -> list[str]:
    """Names under a numpydoc section such as ``Parameters``."""
    found = re.search(rf"^{section}\n-+\n(.*?)(?=^\S[^\n]*\n-{{3,}}|\Z)", inspect.cleandoc(doc), re.M | re.S)
    if not found:
        return []
    heads = re.findall(r"^(\*{0,2}\w[\w, *]*?)(?: :.*)?$", found[1], re.M)
    return [name.strip(" *") for head in heads for name in head.split(",")]


def public_verbs():
    import brodmann

    for name in brodmann.__all__:
        try:
            yield pytest.param(getattr(importlib.import_module(f"brodmann.{brodmann._HOME[name]}"), name), id=name)
        except ImportError:
            yield pytest.param(None, id=name)


@pytest.mark.parametrize("verb", public_verbs())
def test_a_verb_documents_every_parameter(verb):
    """One parameter may be told in the first lines; two or more need their section, and what comes back its own."""
    assert verb is not None, "its module cannot be imported"
    signature = inspect.signature(verb)
    if len(signature.parameters) > 1:
        assert documented(verb.__doc__, "Parameters") == list(signature.parameters)
        assert documented(verb.__doc__, "Returns")


def public_functions():
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            members = node.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_") else []
            for part in (node, *members):
                if isinstance(part, ast.FunctionDef | ast.ClassDef) and not part.name.startswith("_"):
                    yield path, part


def arguments(node: ast.FunctionDef | ast.ClassDef) -> set[str]:
    if isinstance(node, ast.ClassDef):
        fields = {item.target.id for item in node.body if isinstance(item, ast.AnnAssign)}
        made = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
        return fields.union(*(arguments(item) for item in made))
    spec = node.args
    every = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, *filter(None, (spec.vararg, spec.kwarg))]
    return {item.arg for item in every}


def test_public_things_have_docstrings_that_name_real_parameters():
    bare, stale = [], []
    for path, node in public_functions():
        doc = ast.get_docstring(node)
        where = f"{relative(path)}:{node.lineno} {node.name}"
        # Methods of a protocol may repeat what the class says; `@settings` fields carry their own lines.
        if doc is None and not any(
            isinstance(item, ast.Expr) and item.value.__class__ is ast.Constant for item in node.body
        ):
            stub = isinstance(node, ast.FunctionDef) and ast.unparse(node.body[-1]) == "..."
            bare += [] if stub else [where]
        wrong = set(documented(doc or "", "Parameters")) - arguments(node)
        stale += [f"{where}: {', '.join(sorted(wrong))}"] if wrong else []
    assert not bare, f"without a docstring: {bare}"
    assert not stale, f"document parameters that do not exist: {stale}"


# ----------------------------------------------------------------------------------------------------- forbidden calls

CALLS = {
    "pickle": r"\b(c?pickle|dill|joblib|marshal|shelve)\b",
    "allow_pickle": r"\ballow_pickle = True\b",
    "torch.load": r"\btorch \. load \(",
    "eval": r"(?<!\. )\beval \(",
    "exec": r"(?<!\. )\bexec \(",
    "yaml.load": r"\byaml \. (unsafe_|full_)?load \(",
    "shell": r"\bshell = True\b",
    "os.system": r"\bos \. (system|popen) \(",
    "extractall": r"\bextractall\b",
}
"""Patterns over a file's code with single spaces between tokens; comments and texts are left out."""


def code(text: str) -> str:
    """Tokens of Python code, joined by single spaces; comments and string contents dropped."""
    kept = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.NAME, tokenize.OP, tokenize.NUMBER):
            kept.append(token.string)
        elif token.type == tokenize.STRING:
            kept.append('""')
    return " ".join(kept)


def forbidden(text: str) -> list[str]:
    tokens = code(text)
    found = [name for name, pattern in CALLS.items() if re.search(pattern, tokens)]
    return [*found, *(["0.0.0.0"] if "0.0." + "0.0" in text else [])]


@pytest.mark.parametrize("path", [*FILES, *sorted((ROOT / "examples").glob("*.py"))], ids=relative)
def test_no_file_makes_a_forbidden_call(path):
    assert forbidden(path.read_text()) == []


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("import pickle", "pickle"),
        ("x = np.load(p, allow_pickle=True)", "allow_pickle"),
        ("import torch\nstate = torch.load(path)", "torch.load"),
        ("y = eval(text)", "eval"),
        ("exec(text)", "exec"),
        ("yaml.load(text)", "yaml.load"),
        ("subprocess.run(line, shell=True)", "shell"),
        ("archive.extractall(folder)", "extractall"),
        ("serve(host='0.0." + "0.0')", "0.0." + "0.0"),
    ],
)
def test_the_gate_sees_each_forbidden_call(text, name):
    assert forbidden(text) == [name]


def test_the_gate_lets_harmless_text_pass():
    assert forbidden("model.eval()  # never pickle\ntext = 'shell=True, torch.load(x)'\n") == []


@cache
def tracked() -> tuple[Path, ...]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout: the list of tracked files is unknown")
    return tuple(ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file())


def test_no_tracked_file_knows_a_machine():
    """Paths of somebody's computer have no place in code, recipes, tests or text."""
    here = [re.escape(str(folder)) for folder in (ROOT, Path.home()) if len(folder.parts) > 2]
    homes = [r"/ho" + r"me/\w+/\w", r"/Us" + r"ers/\w+/\w", r"/ro" + r"ot/\w", r"[A-Z]:\\+Us" + r"ers"]
    wrong = []
    for path in tracked():
        # Tests of privacy need an invented home; no file may hold the true one.
        patterns = [*here, r"/wo" + r"rk/", *([] if "tests" in path.relative_to(ROOT).parts else homes)]
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        wrong += [f"{relative(path)}: {found[0]}" for p in patterns if (found := re.search(p, text))]
    assert not wrong


# ------------------------------------------------------------------------------------------------------------ recipes


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_short_valid_and_says_what_it_is(path):
    assert lines(path) <= RECIPE_LINES
    assert path.read_text().startswith("# ")
    assert verbs.recipe(path.stem) == verbs.recipe(path)
    assert path.stem in verbs.recipe_names()


def test_recipes_hold_no_paths_and_no_devices():
    words = re.compile(r"/|\\|cuda|cpu|device|\bpath\b", re.I)
    wrong = [
        f"{path.name}: {row}"
        for path in RECIPES
        for row in path.read_text().splitlines()
        if words.search(row.split("#")[0])
    ]
    assert not wrong


TWINNED = [path.stem for path in RECIPES if re.fullmatch(r"patches(?!.*-(simclr|tuned|layers)$).*", path.stem)]
"""Recipes that learn from places; those that learn labels have no partners to take away."""


@pytest.mark.parametrize("name", TWINNED)
def test_a_recipe_has_a_simclr_twin_that_differs_in_places_and_crops_only(name):
    from brodmann.settings import plain

    ours, twin = plain(verbs.recipe(name)), plain(verbs.recipe(f"{name}-simclr"))
    assert twin["partners"]["reach_mm"] == 0
    assert ours["partners"]["reach_mm"] > 0
    for values in (ours, twin):
        del values["partners"], values["augment"]["crop"]
    assert ours == twin


def test_a_tiny_recipe_exists_for_every_system():
    from brodmann.systems import SYSTEMS

    assert {f"{name}-tiny" for name in SYSTEMS} <= set(verbs.recipe_names())
