"""Check the names and files of the cells of a sweep before its first cell runs."""

from collections.abc import Iterator, Sequence

from asr_exp.config import compose as configs
from asr_exp.config.groups import choices, conf_folders
from asr_exp.config.plugins import import_plugins
from asr_exp.core.errors import UserError
from asr_exp.sweeps.ranges import Range, split_overrides

# The keys that name parts and files; the values of others are checked by their types alone.
NAMED = (
    *("decode.name", "decode.lm", "decode.lexicon", "optimizer.name", "schedule.name", "tracking.name"),
    *("dataset.reader", "dataset.train", "dataset.dev", "dataset.test", "text.rules", "text.name"),
    *("tokenizer.vocabulary", "tokenizer.score_inventory", "plugins"),
)


def check_cells(overrides: Sequence[str], config_dir: str | None, command: str) -> None:
    """Raise UserError for names and files that some of the cells could not do without.

    Each value of what names something is tried once, beside the first values of the others: the time is that
    of the sum of the values, not of the cells. A cell whose keys contradict each other fails by itself,
    unless all that are tried have a config that cannot be run.
    """
    from asr_exp.builders.names import check_names  # it imports torch

    problems: dict[str, None] = {}
    invalid: dict[str, None] = {}  # what the config of every cell that was tried has
    valid = False
    groups = choices(conf_folders(config_dir))
    fixed, ranges = split_overrides(overrides)
    for varied in _cells(ranges, groups):
        try:
            config = configs.compose([*fixed, *varied], config_dir)
            configs.validate(config)
        except UserError as error:
            invalid |= dict.fromkeys(str(error).splitlines())
            continue
        valid = True
        if config.run:  # the cell goes by the settings of that run
            continue
        try:
            import_plugins(config)
            check_names(config, command)
        except UserError as error:
            problems |= dict.fromkeys(str(error).splitlines())
    if problems or not valid:
        raise UserError("\n".join(problems or invalid))


def _cells(ranges: Sequence[Range], groups: dict[str, list[str]]) -> Iterator[list[str]]:
    """The overrides of the cells that are tried."""
    values = {one: one.values or [one.low] for one in ranges}
    first = {one: one.override(some[0]) for one, some in values.items()}
    yield list(first.values())
    yield [one.override(some[-1]) for one, some in values.items()]
    for one in ranges:
        name = one.name.lstrip("+")
        if name in groups or name in NAMED:
            for value in values[one][1:]:
                yield [*({**first, one: one.override(value)}).values()]
