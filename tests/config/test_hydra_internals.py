"""What breaks when Hydra changes what it does not document (asr_exp/config/hydra_internals.py)."""

import ast
import importlib
import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from asr_exp.config.compose import compose, compose_with_hydra
from asr_exp.config.groups import conf_folder, conf_folders
from asr_exp.config.hydra_internals import argument_parser, hydra_at, launch, parse_override
from asr_exp.config.overrides import quoted

PACKAGE = Path(__file__).parents[2] / "asr_exp"
# Hydra's documentation shows these modules to users.
DOCUMENTED = {
    "hydra",
    "hydra.errors",
    "hydra.types",
    "hydra.core.config_store",
    "hydra.core.global_hydra",
    "hydra.core.hydra_config",
}

# What is used, the parameters that it is given, and what of asr_exp fails without it.
USED = [
    ("hydra._internal.config_loader_impl.ConfigLoaderImpl", ["config_search_path"], "every command"),
    ("hydra._internal.hydra.Hydra", ["task_name", "config_loader"], "every command"),
    (
        "hydra._internal.hydra.Hydra.run",
        ["config_name", "task_function", "overrides"],
        "a command that runs once, a trial of a search",
    ),
    ("hydra._internal.hydra.Hydra.multirun", ["config_name", "task_function", "overrides"], "-m: a grid"),
    ("hydra._internal.hydra.Hydra.get_mode", ["config_name", "overrides"], "hydra.mode=MULTIRUN, or in YAML"),
    (
        "hydra._internal.hydra.Hydra.compose_config",
        ["config_name", "overrides", "run_mode", "with_log_configuration"],
        "-m sweeper=optuna hydra/launcher=joblib",
    ),
    (
        "hydra._internal.hydra.Hydra.show_cfg",
        ["config_name", "overrides", "cfg_type", "package", "resolve"],
        "--cfg",
    ),
    ("hydra._internal.hydra.Hydra.show_info", ["info", "config_name", "overrides"], "--info"),
    ("hydra._internal.hydra.Hydra.hydra_help", ["config_name", "args_parser", "args"], "--hydra-help"),
    ("hydra._internal.hydra.Hydra.shell_completion", ["config_name", "overrides"], "--shell-completion"),
    ("hydra._internal.utils.create_config_search_path", ["search_path_dir"], "every command"),
    ("hydra._internal.utils.get_args_parser", [], "every command line"),
    ("hydra._internal.callbacks.Callbacks", ["config"], "-m sweeper=optuna hydra/launcher=joblib"),
    ("hydra.core.config_search_path.SearchPathQuery", ["provider"], "YAML files in ./conf, --config-dir"),
    ("hydra.core.override_parser.overrides_parser.OverridesParser.create", [], "every override"),
    ("hydra.core.override_parser.types.Sweep", [], "-m seed=range(3)"),
    ("hydra.core.override_parser.types.Glob", ["include", "exclude"], "-m model=glob(wavlm*)"),
    (
        "hydra.core.plugins.Plugins.instantiate_launcher",
        ["config", "hydra_context", "task_function"],
        "-m sweeper=optuna hydra/launcher=joblib",
    ),
    ("hydra.core.utils.JobReturn", ["status"], "-m hydra/launcher=submitit_local, where a job is lost"),
    ("hydra.core.utils.JobStatus.COMPLETED", [], "-m hydra/launcher=submitit_local, where a job is lost"),
    ("hydra.core.singleton.Singleton.get_state", [], "-m hydra/launcher=submitit_local"),
    (
        "hydra_plugins.hydra_joblib_launcher._core.launch",
        ["launcher", "job_overrides", "initial_job_idx"],
        "-m hydra/launcher=joblib",
    ),
    (
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.BaseSubmititLauncher.launch",
        ["job_overrides", "initial_job_idx"],
        "-m hydra/launcher=submitit_local",
    ),
]


@pytest.mark.parametrize(("name", "parameters", "what"), USED, ids=[name for name, *_ in USED])
def test_hydra_has_what_is_used(name, parameters, what):
    module, attributes = name, []
    while True:
        try:
            thing = importlib.import_module(module)
            break
        except ModuleNotFoundError:
            module, _, last = module.rpartition(".")
            attributes.insert(0, last)
            assert module, f"Hydra has no {name} any more; {what} needs it"
    for attribute in attributes:
        assert hasattr(thing, attribute), f"Hydra has no {name} any more; {what} needs it"
        thing = getattr(thing, attribute)
    missing = parameters and set(parameters) - inspect.signature(thing).parameters.keys()
    assert not missing, f"{name} takes no {missing} any more; {what} gives it"


def imports(path: Path) -> set[str]:
    """The modules of Hydra that a file imports when it runs; what only type checkers read is left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    nodes = [node for node in ast.walk(tree) if id(node) not in typing]
    modules = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {module for module in modules if module.split(".")[0] == "hydra"}


def test_one_file_alone_knows_what_hydra_does_not_document():
    internal = {
        path.name: modules
        for path in sorted(PACKAGE.rglob("*.py"))
        if (modules := imports(path) - DOCUMENTED)
    }
    launchers = {"joblib_launcher.py", "submitit_launcher.py"}  # stand-ins for those of Hydra's plugins
    assert internal.keys() == {"hydra_internals.py", *launchers}
    for name in launchers:
        assert internal[name] <= {"hydra.core.utils", "hydra.core.singleton"}
    seen = {name for name, *_ in USED}
    assert all(
        any(name.startswith(f"{module}.") for name in seen) for module in internal["hydra_internals.py"]
    )


# ------------------------------------------------------------------------------------------------------------
# what it does


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Our YAML files, those in ./conf, and those of a folder with odd signs in its name."""
    for place, name in ((tmp_path / "conf", "near"), (tmp_path / "it's [mine], $5\\", "far")):
        (place / "model").mkdir(parents=True)
        (place / "model" / f"{name}.yaml").write_text(f"name: {name}\narchitecture: wav2vec2\n")
    monkeypatch.chdir(tmp_path)
    return conf_folders(str(tmp_path / "it's [mine], $5\\"))


def test_both_ways_of_composing_find_the_same_files(folders):
    for words in (["model=near"], ["model=far", "seed=3"], ["experiment=hf-timit/wav2vec2-base"]):
        configs = []
        hydra_at(folders).run("config", configs.append, [*words, "hydra.mode=RUN"])
        config = compose_with_hydra(words, folders)
        assert config.hydra.job.name == "asr_exp" and config.hydra.runtime.version_base == "1.3"
        (of_run,) = configs
        assert of_run == {name: value for name, value in config.items() if name != "hydra"}
        assert of_run.model.name == words[0].partition("=")[2].rpartition("/")[2]


def test_a_search_path_of_the_users_own_is_kept(folders, tmp_path):
    (tmp_path / "third/model").mkdir(parents=True)
    (tmp_path / "third/model/third.yaml").write_text("name: third\narchitecture: wavlm\n")
    path = f"hydra.searchpath=[file://{tmp_path}/third]"
    for words in (["model=third"], ["model=far"]):
        assert compose_with_hydra([*words, path], folders).model.name == words[0].partition("=")[2]


def test_composing_leaves_the_global_instance_as_it_was():
    GlobalHydra.instance().clear()
    compose()
    assert not GlobalHydra.instance().is_initialized()
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        outer = GlobalHydra.instance().hydra
        compose(["seed=5"])
        assert GlobalHydra.instance().hydra is outer
        with pytest.raises(Exception, match="no key"):
            compose(["=5"])
        assert GlobalHydra.instance().hydra is outer


def test_composing_inside_a_run():
    seeds = []
    hydra_at(conf_folders()).run(
        "config", lambda config: seeds.append(compose([f"seed={config.seed + 1}"]).seed), ["seed=1"]
    )
    assert seeds == [2]


def test_composing_from_several_threads():
    together = threading.Barrier(4)

    def one(seed: int) -> int:
        together.wait()
        return compose([f"seed={seed}"]).seed

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(8))) == list(range(8))


def test_the_flags_of_a_hydra_program():
    options = argument_parser().parse_args(["seed=3", "--cfg", "job", "-m", "--config-dir", "x"])
    assert (options.overrides, options.cfg, options.multirun, options.config_dir) == (
        ["seed=3"],
        "job",
        True,
        "x",
    )
    unused = (options.config_path, options.config_name, options.experimental_rerun, options.info)
    assert unused == (None, None, None, None)


def test_jobs_by_a_launcher():
    launched = launch(
        hydra_at(conf_folders()),
        lambda config: config.seed + 1,
        ["trainer.max_steps=1"],
        [["seed=4"], ["seed=6"]],
    )
    assert launched == [5, 7]


def test_a_job_that_fails_is_told():
    def task(config):
        raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        launch(hydra_at(conf_folders()), task, [], [["seed=4"]])


@pytest.mark.parametrize(
    "text",
    ["", "a b", "it's", "\\", "a\\'b", "\\\\'", "tail\\", "a,b[c]{d}", '"x"', "=", "~/x", "null", "1e3", "é"],
)
def test_quotes_are_read_as_the_text_in_them(text):
    assert parse_override(f"a={quoted(text)}").value() == text
    assert parse_override(f"a=[{quoted(text)},{quoted(text)}]").value() == [text, text]


def test_the_grammar_of_overrides():
    override = parse_override("model=a,b")
    assert override.key_or_group == "model" and override.is_discrete_sweep()
    assert list(override.sweep_string_iterator()) == ["a", "b"]
    interval = parse_override("optimizer.lr=tag(log,interval(1e-5,1e-3))")
    assert interval.is_interval_sweep() and interval.value().tags == {"log"}
    assert parse_override("~model").is_delete() and parse_override("+x=1").is_add()
    assert OmegaConf.create(parse_override("x={a: [1,null]}").value()) == {"a": [1, None]}
