"""A trained recogniser in use: recordings in, transcripts with word times out."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from asr_exp.data.audio import Samples
from asr_exp.data.batch import Batch
from asr_exp.data.batch_plan import cost, pack
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.decoding.alignment import Word, align_labels, best_path, words_of
from asr_exp.decoding.decoders import Candidate, Decoder, Greedy, candidates
from asr_exp.inference.chunking import Chunking, at_pauses, joined, spans
from asr_exp.model.forward_passes import CPU_PASSES, ForwardPasses, even_budget, pass_seconds, seconds_of
from asr_exp.model.recogniser import Emissions, Recogniser

REMEDY = (  # where a recording does not fit in a GPU's memory
    "a lower transcribe.whole_seconds or transcribe.chunk_seconds, evaluate.precision=bf16 or"
    " trainer.device=cpu"
)
MAX_DECODER_SECONDS = 30.0  # of emissions that a decoder other than greedy gets at once

# called with the seconds of audio that went through the network since the last call
Progress = Callable[[float], object]


def _no_progress(seconds: float) -> None:
    pass


@dataclass(frozen=True)
class Transcript:
    """The transcript of a recording. seconds: the length of the recording.

    nbest: the best transcripts, the best first, where the decoder was configured to return several; empty for
    a recording that is decoded in parts.
    """

    text: str
    words: list[Word]
    seconds: float
    nbest: Sequence[Candidate] = ()


class Transcriber:
    """Transcribes recordings, each (samples,) int16 mono at `rate` hertz, in batches of similar lengths.

    A recording longer than `chunking.whole` goes through the network in overlapping chunks, normalised by the
    statistics of the whole recording; their emissions are joined. On a CPU the passes of a call run two side
    by side. Several threads may use a Transcriber at once; their passes take turns.

    Args:
        model: the network; it is put into evaluation mode.
        tokenizer: the labels that the network emits.
        decoder: makes texts of emissions.
        device: that the network is on.
        device_seconds: as `trainer.device_seconds`; on a CPU a pass has less, see `pass_seconds`.
        chunking: of long recordings, see `Chunking`.
        precision: of the network, as `evaluate.precision`.
    """

    # How many chunks of a long recording may run at a time on a CPU. With 1 each has all threads, and a short
    # recording of another thread waits for one chunk at most.
    chunks_at_once = CPU_PASSES

    def __init__(
        self,
        model: Recogniser,
        tokenizer: Tokenizer,
        decoder: Decoder,
        device: torch.device,
        device_seconds: float | str = 100.0,
        chunking: Chunking | None = None,
        precision: str = "fp32",
    ):
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.decoder = decoder
        self.device = device
        self.device_seconds = seconds_of(device_seconds, device)
        self.chunking = chunking or Chunking()
        self.rate: int = model.extractor.sampling_rate
        self.hop = int(np.prod(model.network.config.conv_stride))  # samples from one frame to the next
        self.frame = self.hop / self.rate  # seconds from one frame to the next
        self._passes = ForwardPasses(self.model, device, precision, remedy=REMEDY)
        self._decoder_lock = threading.Lock()

    def __call__(self, clips: Sequence[Samples], progress: Progress = _no_progress) -> list[Transcript]:
        """The transcript of each clip, in their order."""
        transcripts = [Transcript("", [], len(clip) / self.rate) for clip in clips]
        for indices, emissions in self._forward_whole(clips):
            candidates_of = self._decode(emissions)
            log_probs = emissions.logits.log_softmax(-1)
            for row, (index, nbest) in enumerate(zip(indices.tolist(), candidates_of, strict=True)):
                words = self._words(log_probs[row, : emissions.frames[row]], nbest[0].text)
                scored = [replace(one, text=self.tokenizer.scored(one.text)) for one in nbest]
                transcripts[index] = replace(
                    transcripts[index],
                    text=scored[0].text,
                    words=words,
                    nbest=scored if len(scored) > 1 else (),
                )
            progress(sum(transcripts[index].seconds for index in indices))
        for index in self._long_clips(clips):
            text, words = self._transcribe_long(self._forward_chunks(clips[index], progress))
            transcripts[index] = replace(transcripts[index], text=self.tokenizer.scored(text), words=words)
        return transcripts

    def emissions(self, clips: Sequence[Samples]) -> list[torch.Tensor]:
        """Log probabilities of each clip, (frames, vocabulary) fp32 on the CPU; a clip shorter than a frame
        has 0 frames.
        """
        log_probs_of = [torch.empty(0, len(self.tokenizer))] * len(clips)
        for indices, emissions in self._forward_whole(clips):
            log_probs = emissions.logits.log_softmax(-1)
            for row, index in enumerate(indices.tolist()):
                log_probs_of[index] = log_probs[row, : emissions.frames[row]].clone()
        for index in self._long_clips(clips):
            log_probs_of[index] = torch.cat(list(self._forward_chunks(clips[index])))
        return log_probs_of

    def words(self, log_probs: torch.Tensor, text: str) -> list[Word]:
        """Align a text with an utterance -> its words with their times; none where it cannot be aligned.

        log_probs: (frames, vocabulary).
        """
        labels = self.tokenizer.encode(text).tolist()
        try:
            aligned = align_labels(log_probs, labels, self.tokenizer.blank)
            return self._scored(words_of(aligned, self.tokenizer, self.frame))
        except ValueError:
            return []

    # -- decoding
    # ------------------------------------------------------------------------------------------------------

    def _words(self, log_probs: torch.Tensor, text: str) -> list[Word]:
        """The words of the decoder's text, with their times."""
        if not isinstance(self.decoder, Greedy):
            return self.words(log_probs, text)
        # the best path is the most probable alignment of its own labels: no aligner is needed
        scores, labels = log_probs.max(1)
        path = best_path(labels, scores.exp(), self.tokenizer.blank)
        return self._scored(words_of(path, self.tokenizer, self.frame))

    def _scored(self, words: list[Word]) -> list[Word]:
        """The words as they are scored: phones are folded to the scoring inventory, and dropped where it has
        none for them.
        """
        scored = (replace(word, text=self.tokenizer.scored(word.text)) for word in words)
        return [word for word in scored if word.text]

    def _decode(self, emissions: Emissions) -> list[list[Candidate]]:
        with self._decoder_lock, torch.inference_mode():
            return candidates(self.decoder, emissions.logits, emissions.frames)

    def _transcribe_long(self, parts: Iterator[torch.Tensor]) -> tuple[str, list[Word]]:
        """Text and words of a long recording: greedily in one go, by another decoder in parts that end at
        pauses. parts: consecutive log probabilities, each (frames, vocabulary).
        """
        blank = self.tokenizer.blank
        if isinstance(self.decoder, Greedy):
            best = [part.max(1) for part in parts]  # keeps a label and a score of each frame, no more
            scores = torch.cat([b.values for b in best]).exp()
            labels = torch.cat([b.indices for b in best])
            words = words_of(best_path(labels, scores, blank), self.tokenizer, self.frame)
            return self.tokenizer.decode(torch.unique_consecutive(labels).tolist()), self._scored(words)
        texts: list[str] = []
        words = []
        offset = 0.0
        silent = [blank, self.tokenizer.ids.get(self.tokenizer.space, blank)]
        for part in at_pauses(parts, round(MAX_DECODER_SECONDS / self.frame), silent):
            ((best_candidate, *_),) = self._decode(Emissions(part[None], [len(part)]))
            text = best_candidate.text
            texts += [text] if text else []
            words += [
                replace(word, start=round(word.start + offset, 3), end=round(word.end + offset, 3))
                for word in self._words(part, text)
            ]
            offset += len(part) * self.frame
        return " ".join(texts), words

    # -- the network
    # ------------------------------------------------------------------------------------------------------

    def _long_clips(self, clips: Sequence[Samples]) -> list[int]:
        return [i for i, clip in enumerate(clips) if len(clip) > self.chunking.whole * self.rate]

    def _forward_whole(self, clips: Sequence[Samples]) -> Iterator[tuple[np.ndarray, Emissions]]:
        """Forward passes over the clips that are neither long nor shorter than a frame -> (indices of clips,
        their emissions).
        """
        long = set(self._long_clips(clips))
        usable = np.array(
            [i for i, clip in enumerate(clips) if i not in long and self.model.frames(len(clip)) > 0],
            dtype=np.int64,
        )
        seconds = np.array([len(clips[i]) / self.rate for i in usable])
        costs = cost(seconds)
        budget = pass_seconds(self.device_seconds, self.device)
        if self._passes.side_by_side:
            budget = even_budget(costs, budget)
        packs = [usable[rows] for rows in pack(np.arange(len(usable)), costs, budget)]
        at_once = min(CPU_PASSES, max(1, len(packs)))  # a pass that is alone has all threads
        for result in self._passes.run(
            packs, lambda indices: _batch([clips[i][:] for i in indices], indices), at_once=at_once
        ):
            yield result.indices, result.emissions

    def _forward_chunks(self, clip: Samples, progress: Progress = _no_progress) -> Iterator[torch.Tensor]:
        """Log probabilities of a long recording in consecutive parts, each (frames, vocabulary), on the
        CPU.
        """
        return joined(self._chunks(clip, progress), self.tokenizer.blank)

    def _chunks(self, clip: Samples, progress: Progress) -> Iterator[tuple[int, torch.Tensor]]:
        """(first frame, log probabilities (frames, vocabulary)) of the overlapping chunks of a recording."""
        length, overlap = (
            round(seconds / self.frame) for seconds in (self.chunking.length, self.chunking.overlap)
        )
        frames = self.model.frames(len(clip))
        # SEW pools frames in groups: a chunk has to start with a group
        squeeze = getattr(self.model.network.config, "squeeze_factor", 1)
        # samples that the first frame sees
        field = next(n for n in range(1, len(clip) + 1) if self.model.frames(n))
        field -= (self.model.frames(field) - 1) * self.hop
        statistics = self.model.signal_statistics(clip)
        batch_size = max(
            1, int(pass_seconds(self.device_seconds, self.device) // cost(np.array(self.chunking.length)))
        )
        chunks = spans(frames, length, overlap, squeeze)
        batches = [chunks[i : i + batch_size] for i in range(0, len(chunks), batch_size)]

        def end_of(last: int) -> int:
            """The sample behind the last one that a chunk sees. last: the frame behind its last."""
            return len(clip) if last == frames else (last - 1) * self.hop + field

        def cut(batch: list[tuple[int, int]]) -> Batch:
            pieces = [clip[first * self.hop : end_of(last)] for first, last in batch]
            return _batch(pieces, np.arange(len(pieces)))

        samples_done = 0
        at_once = min(self.chunks_at_once, len(batches))
        results = self._passes.run(batches, cut, statistics=statistics, at_once=at_once)
        for batch, result in zip(batches, results, strict=True):
            log_probs = result.emissions.logits.log_softmax(-1)
            end = end_of(batch[-1][1])
            progress((end - samples_done) / self.rate)
            samples_done = end
            for row, (first, _) in enumerate(batch):
                yield first, log_probs[row, : result.emissions.frames[row]]


def _batch(clips: Sequence[np.ndarray], indices: np.ndarray) -> Batch:
    """A batch without labels. clips: each (samples,) int16."""
    lengths = [len(clip) for clip in clips]
    audio = np.zeros((len(clips), max(lengths)), dtype=np.int16)
    for row, clip in zip(audio, clips, strict=True):
        row[: len(clip)] = clip
    no_labels = torch.empty(0, dtype=torch.int32)
    return Batch(indices, torch.from_numpy(audio), lengths, no_labels, [0] * len(clips))
