"""Build the rules that a score is measured by, and what its protocol says of them."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from asr_exp.config.groups import conf_folders
from asr_exp.config.schema import Score
from asr_exp.core.errors import UserError
from asr_exp.data.text import build_rules
from asr_exp.scoring.score_rules import ScoreRules

# What is said of a score in its protocol; the name is one of it too.
DETAILS = ("rules", "references", "compounds", "drop_empty")


def build_score_rules(config: DictConfig) -> ScoreRules:
    """Build the rules of the section `score`. Raises UserError for a rule that there is not, and for one that
    is not of the language.
    """
    score = config.score
    rules: Any = OmegaConf.to_container(score.rules)
    try:
        built = build_rules(rules, score.language or config.dataset.language) if rules else None
    except UserError as why:
        raise UserError(str(why).replace("text.rules", "score.rules")) from None
    return ScoreRules(built, score.references == "corpus", score.compounds, score.drop_empty)


def score_protocol(config: DictConfig) -> dict[str, Any]:
    """What a protocol says of the scoring rules: `score`, their name, and `scoring`, what they are; nothing
    for score=same.
    """
    score: dict[str, Any] = OmegaConf.to_container(config.score)  # type: ignore[assignment]
    details = {name: score[name] for name in DETAILS}
    if details == _defaults():
        return {}
    language = {"language": score["language"] or config.dataset.language} if details["rules"] else {}
    return {"score": score_name(config), "scoring": details | language}


def score_name(config: DictConfig) -> str:
    """The name of the scoring rules as it is shown, with a star where they are not those of its file in
    conf/score/. A name without a file is the user's own.
    """
    score: dict[str, Any] = OmegaConf.to_container(config.score)  # type: ignore[assignment]
    own = {name: score[name] for name in DETAILS}
    for path in (path for folder in conf_folders() for path in (folder / "score").glob("*.yaml")):
        known = _read(path)
        if known.get("name") == score["name"] and {**_defaults(), **_details(known)} != own:
            return f"{score['name']}*"
    return score["name"]


def _defaults() -> dict[str, Any]:
    defaults = OmegaConf.to_container(OmegaConf.structured(Score))
    assert isinstance(defaults, dict)
    return {one.name: defaults[one.name] for one in fields(Score) if one.name in DETAILS}


def _details(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name in DETAILS}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}
