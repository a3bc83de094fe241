"""Say what is said in recordings: transcribe run=FOLDER files=[a.wav,b.flac] format=jsonl."""

import json
import sys
from dataclasses import asdict

from omegaconf import DictConfig, ListConfig

from asr_exp.data.clips import decode
from asr_exp.data.corpora import FileAudio
from asr_exp.runtime import started
from asr_exp.transcriber import load_transcriber


def run(config: DictConfig) -> int:
    files = list(config.files) if isinstance(config.files, ListConfig) else [config.files]
    with started(config.trainer.device, "fp32") as runtime:
        transcriber = load_transcriber(config, runtime)
        for file in files:
            clip = decode(FileAudio(file), transcriber.rate)
            (transcript,) = transcriber([clip.samples])
            line = transcript.text if config.format != "jsonl" else json.dumps({"file": file, **asdict(transcript)}, ensure_ascii=False)
            sys.stdout.write(line + "\n")
    return 0
