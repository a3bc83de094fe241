"""The metadata of a model card, which stands before its text and which the hub reads."""

import re

from huggingface_hub import EvalResult, ModelCardData

from asr_exp.commands.export.facts import Facts, is_hub_id

TASK = "automatic-speech-recognition"
# MLS names its languages in words, the hub by ISO 639.
LANGUAGE_CODES = {
    "english": "en",
    "german": "de",
    "dutch": "nl",
    "french": "fr",
    "spanish": "es",
    "italian": "it",
    "portuguese": "pt",
    "polish": "pl",
}


def metadata(facts: Facts) -> ModelCardData:
    """The metadata. Only a finished run claims scores; what is said of the training is said of a run
    alone.
    """
    scores = _scores(facts)
    known: dict[str, object] = {}
    if facts.result:
        language, dataset = _language(facts), facts.config["dataset"]["hub"]["id"]
        known["language"] = [language] if language else None
        known["base_model"] = facts.checkpoint if is_hub_id(facts.checkpoint) else None
        known["datasets"] = [dataset] if dataset else None
    if scores:
        known |= {"metrics": [one.metric_type for one in scores], "model_name": facts.name}
        known["eval_results"] = scores
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=TASK,
        tags=[TASK, "ctc", facts.model_type, "asr_exp", *(["onnx"] if facts.onnx else [])],
        **known,  # type: ignore[arg-type]
    )


def _scores(facts: Facts) -> list[EvalResult]:
    """The rates on the test split, in per cent."""
    if not (finished := facts.finished):
        return []
    dataset, test = facts.config["dataset"], finished["splits"].get("test") or {}
    return [
        EvalResult(
            task_type=TASK,
            task_name="Automatic Speech Recognition",
            dataset_type=dataset["hub"]["id"] or dataset["name"],
            dataset_name=dataset["name"],
            dataset_split="+".join(finished["protocol"]["split"]),
            metric_type=metric,
            metric_name=f"{metric.upper()}, percent",
            metric_value=round(100 * test[metric], 4),
        )
        for metric in ("wer", "cer", "per")
        if test.get(metric) is not None
    ]


def _language(facts: Facts) -> str | None:
    """The ISO 639 code of the dataset's language, None where it has none."""
    language = str(facts.config["dataset"]["language"] or "").lower()
    code = LANGUAGE_CODES.get(language, re.split("[-_]", language)[0])
    return code if re.fullmatch("[a-z]{2,3}", code) else None
