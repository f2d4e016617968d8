"""The house rules, read from the source: imports point down, and every room is small enough to read."""

import ast
import graphlib
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "dit_jax"
FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
TESTS = [path for path in (ROOT / "tests").glob("test_*.py") if path.name != "test_layers.py"]
SCRIPTS = {path.name: path for path in sorted(ROOT.glob("*.py"))}

ERRORS = {"names", "schema"}
# What a folder may import of the others; entry points, commands and config.py stand above and may import them all.
MAY_IMPORT = {
    "diffusion": {"diffusion"} | ERRORS,
    "parallel": {"parallel"},
    "network": {"diffusion", "network", "parallel"} | ERRORS,
    "media": {"media", "names"},
    "data": {"data", "media", "diffusion", "names"},
    "streams": {"media", "diffusion", "network", "streams"} | ERRORS,
    "sampling": {"sampling", "parallel", "network", "media", "diffusion", "run"} | ERRORS,
    "training": {"training", "sampling", "parallel", "data", "network", "diffusion", "progress", "run"} | ERRORS,
    "planning": {"planning", "training", "sampling", "parallel", "network", "diffusion", "names", "run"},
    "pretrained": {"pretrained", "media", "network", "diffusion"},
    "evaluation": {"evaluation", "sampling", "pretrained", "parallel", "data", "media", "streams", "diffusion", "run"},
    "inside": {"inside", "network", "diffusion"} | ERRORS,
    "configs": {"configs", "config", "network"},
}


def imports(path):
    """Every module that a file imports, anywhere in it; `from a import b` counts as a.b where that is a module too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            for alias in node.names:
                inner = ROOT / f"{node.module}.{alias.name}".replace(".", "/")
                is_module = inner.is_dir() or inner.with_suffix(".py").exists()
                yield f"{node.module}.{alias.name}" if is_module else node.module


def importers(module, files=FILES):
    return {name for name, path in files.items() if any(f"{i}.".startswith(f"{module}.") for i in imports(path))}


def inside(*folders):
    return {name for name in FILES if name.split("/")[1] in folders}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_point_down(folder):
    assert inside(folder), f"there is no dit_jax/{folder}"
    for name in inside(folder):
        ours = [module.split(".")[1:2] for module in imports(FILES[name]) if module.split(".")[0] == "dit_jax"]
        assert all(ours), f"{name} imports the whole package"
        wrong = {module for (module,) in ours} - MAY_IMPORT[folder]
        assert not wrong, f"{name} imports {wrong}"


def test_every_folder_has_its_rule():
    folders = {path.name for path in PACKAGE.iterdir() if any(path.glob("*.py"))}
    assert folders == MAY_IMPORT.keys()


def test_only_the_network_and_the_streams_know_flax():
    assert importers("flax") <= inside("network", "streams")


def test_only_the_config_knows_ml_collections():
    assert importers("ml_collections") <= {"dit_jax/config.py"}
    assert not importers("ml_collections", SCRIPTS)


def test_the_config_is_known_only_above_it():
    """By commands, and by the configs themselves."""
    assert not importers("dit_jax.config") & inside(*(MAY_IMPORT.keys() - {"configs"}))


@pytest.mark.parametrize("module", ["torch", "tensorflow", "transformers", "diffusers"])
def test_one_framework_is_enough(module):
    """torch reads published files in the one format that nothing else does."""
    allowed = {"dit_jax/pretrained/weights.py"} if module == "torch" else set()
    assert importers(module, FILES | SCRIPTS) <= allowed


@pytest.mark.parametrize("script", [path.stem for path in SCRIPTS.values()])
def test_training_and_sampling_load_no_other_framework(script, tmp_path):
    """Not even where a dependency would, as tensorboardX does; torch and diffusers are installed with the tests."""
    program = """if True:
        import importlib, pathlib, sys
        importlib.import_module(sys.argv[2])
        from dit_jax.training.metrics import Writer
        with Writer(pathlib.Path(sys.argv[1])) as writer:
            writer.scalars(1, {"loss": 0.5})
        print(sorted({"torch", "tensorflow", "transformers", "diffusers"} & sys.modules.keys()))
        import torch
        """
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path, script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_a_file_has_a_name_that_says_what_is_in_it():
    drawers = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}
    assert not drawers & {path.name for path in FILES.values()}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_in_one_sitting_and_a_function_on_one_screen(name):
    """350 lines and 60. There is no law for the whole: what is new gets a name and room to say what it is."""
    text = FILES[name].read_text()
    assert len(text.splitlines()) <= 350
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    long = {node.name for node in functions if node.end_lineno - node.lineno >= 60}
    assert not long, f"{name}: {long}"


def test_the_network_and_the_mathematics_speak_the_language_of_the_field():
    """Words that once stood for masks, rotary embedding, predictions and slots of a cache."""
    forbidden = {"told", "heard", "sight", "seen", "said", "whose", "turn", "now", "place"}
    for name in inside("network", "diffusion"):
        nodes = list(ast.walk(ast.parse(FILES[name].read_text())))
        names = {node.id for node in nodes if isinstance(node, ast.Name)}
        names |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        names |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
        assert not names & forbidden, f"{name}: {names & forbidden}"


def test_nobody_asks_what_class_a_process_is():
    """A process answers an interface: a new one changes no file that uses it."""
    for name, path in FILES.items():
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        asked = [ast.unparse(call) for call in calls if ast.unparse(call.func) == "isinstance"]
        assert not [call for call in asked if re.search("Gaussian|Masked|DDPM|Span|Process", call)], name


@pytest.mark.parametrize("name", [name for name in FILES if FILES[name].name != "__init__.py"])
def test_every_module_has_a_test_file_that_names_it(name):
    """Configs are found by test_configs.py, which trains each of them, and builders by name."""
    module = name.removesuffix(".py").replace("/", ".")
    folder, _, leaf = module.rpartition(".")
    words = rf"{re.escape(module)}\b|from {re.escape(folder)} import [^\n]*\b{leaf}\b"
    if folder == "dit_jax.configs":
        words = "dit_jax.configs"
    assert any(re.search(words, path.read_text()) for path in TESTS), f"no file in tests/ names {module}"


def test_imports_make_no_circle():
    modules = {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for name, path in FILES.items()
    }
    edges = {name: {module for module in imports(path) if module in modules} for name, path in modules.items()}
    edges["dit_jax"] = set()  # the package offers what is in it, and nothing in it imports the package
    try:
        [*graphlib.TopologicalSorter(edges).static_order()]
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("name", sorted(inside("diffusion")))
def test_the_mathematics_needs_jax_and_numpy_alone(name):
    outside = {module.split(".")[0] for module in imports(FILES[name])} - {"dit_jax", "jax", "numpy"}
    assert outside <= sys.stdlib_module_names


def test_media_are_read_and_written_without_the_network():
    outside = {module.split(".")[0] for name in inside("media") for module in imports(FILES[name])} - {"dit_jax"}
    assert outside - sys.stdlib_module_names <= {"jax", "numpy", "PIL", "scipy", "soundfile"}
