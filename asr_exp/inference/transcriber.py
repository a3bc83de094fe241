"""A trained recogniser, ready to be used: recordings in, transcripts with word times out."""

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
from asr_exp.inference.chunking import PIECE, Chunking, at_pauses, joined, spans
from asr_exp.model.conv_frontend import SignalStatistics
from asr_exp.model.recogniser import Emissions, Recogniser

Recognition = Callable[[float], object]  # is told how many more seconds have gone through the network


@dataclass(frozen=True)
class Transcript:
    """What is said in a recording of so many seconds.

    nbest: what else it may be, the best first, of a decoder that was asked for it; not of a recording that is
    decoded in pieces.
    """

    text: str
    words: list[Word]
    seconds: float
    nbest: Sequence[Candidate] = ()


class Transcriber:
    """Recordings (int16, mono, at `rate`) to transcripts; what is given together goes through the network in
    batches by length.

    A recording longer than `chunking.whole` seconds goes through it in overlapping chunks, each normalised as
    the whole recording is, and what the network says of them is laid end to end. Several threads may use one
    Transcriber; one of them at a time has the network.
    """

    def __init__(
        self,
        model: Recogniser,
        tokenizer: Tokenizer,
        decoder: Decoder,
        device: torch.device,
        device_seconds: float = 100.0,
        chunking: Chunking | None = None,
    ):
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.decoder = decoder
        self.device = device
        self.device_seconds = device_seconds
        self.chunking = chunking or Chunking()
        self.rate: int = model.extractor.sampling_rate
        self.hop = int(np.prod(model.network.config.conv_stride))  # samples from one frame to the next
        self.frame = self.hop / self.rate  # the same in seconds
        self._network = threading.Lock()

    def __call__(
        self, clips: Sequence[Samples], heard: Recognition = lambda seconds: None
    ) -> list[Transcript]:
        """The transcript of each clip, in their order."""
        found = [Transcript("", [], len(clip) / self.rate) for clip in clips]
        for indices, emissions in self._passes(clips):
            decoded = self._decoded(emissions)
            log_probs = emissions.logits.log_softmax(-1).cpu()
            for row, (index, several) in enumerate(zip(indices.tolist(), decoded, strict=True)):
                words = self._words(log_probs[row, : emissions.frames[row]], several[0].text)
                scored = [replace(one, text=self.tokenizer.scored(one.text)) for one in several]
                found[index] = replace(
                    found[index], text=scored[0].text, words=words, nbest=scored if len(scored) > 1 else ()
                )
            heard(sum(found[index].seconds for index in indices))
        for index in self._long(clips):
            text, words = self._transcribe(self._pieces(clips[index], heard))
            found[index] = replace(found[index], text=self.tokenizer.scored(text), words=words)
        return found

    def emissions(self, clips: Sequence[Samples]) -> list[torch.Tensor]:
        """Log probabilities of each clip, (frames, vocabulary) fp32 on the CPU; no frames of a clip too short
        for one.
        """
        found = [torch.empty(0, len(self.tokenizer))] * len(clips)
        for indices, emissions in self._passes(clips):
            log_probs = emissions.logits.log_softmax(-1).cpu()
            for row, index in enumerate(indices.tolist()):
                found[index] = log_probs[row, : emissions.frames[row]].clone()
        for index in self._long(clips):
            found[index] = torch.cat(list(self._pieces(clips[index])))
        return found

    def words(self, log_probs: torch.Tensor, text: str) -> list[Word]:
        """When the words of a text are said in an utterance, (frames, vocabulary). No words where it cannot
        be aligned.
        """
        labels = self.tokenizer.encode(text)
        try:
            return self._scored(
                words_of(
                    align_labels(log_probs, labels.tolist(), self.tokenizer.blank), self.tokenizer, self.frame
                )
            )
        except ValueError:
            return []

    # -- what is said
    # -----------------------------------------------------------------------------------------------------

    def _words(self, log_probs: torch.Tensor, text: str) -> list[Word]:
        """The words of what the decoder has made of an utterance."""
        if not isinstance(self.decoder, Greedy):
            return self.words(log_probs, text)
        scores, labels = log_probs.max(1)  # the best path is the likeliest alignment of its own labels
        return self._scored(
            words_of(best_path(labels, scores.exp(), self.tokenizer.blank), self.tokenizer, self.frame)
        )

    def _scored(self, words: list[Word]) -> list[Word]:
        """Words as they are scored, phones folded to the scoring inventory; those that this makes nothing of
        are left out.
        """
        named = (replace(word, text=self.tokenizer.scored(word.text)) for word in words)
        return [word for word in named if word.text]

    def _decoded(self, emissions: Emissions) -> list[list[Candidate]]:
        with self._network, torch.inference_mode():
            return candidates(self.decoder, emissions.logits, emissions.frames)

    def _transcribe(self, pieces: Iterator[torch.Tensor]) -> tuple[str, list[Word]]:
        """Text and words of a long recording: the best path as one, or, by another decoder, utterance by
        utterance.
        """
        blank = self.tokenizer.blank
        if isinstance(self.decoder, Greedy):
            best = [piece.max(1) for piece in pieces]  # of each frame no more than that
            scores, labels = torch.cat([b.values for b in best]).exp(), torch.cat([b.indices for b in best])
            words = words_of(best_path(labels, scores, blank), self.tokenizer, self.frame)
            return self.tokenizer.decode(torch.unique_consecutive(labels).tolist()), self._scored(words)
        texts: list[str] = []
        words, offset = [], 0.0
        quiet = [blank, self.tokenizer.ids.get(self.tokenizer.space, blank)]
        for piece in at_pauses(pieces, round(PIECE / self.frame), quiet):
            ((best_one, *_),) = self._decoded(Emissions(piece[None], [len(piece)]))
            text = best_one.text
            texts += [text] if text else []
            found = self._words(piece, text)
            words += [
                replace(w, start=round(w.start + offset, 3), end=round(w.end + offset, 3)) for w in found
            ]
            offset += len(piece) * self.frame
        return " ".join(texts), words

    # -- the network
    # ------------------------------------------------------------------------------------------------------

    def _long(self, clips: Sequence[Samples]) -> list[int]:
        return [i for i, clip in enumerate(clips) if len(clip) > self.chunking.whole * self.rate]

    def _passes(self, clips: Sequence[Samples]) -> Iterator[tuple[np.ndarray, Emissions]]:
        """Forward passes over the clips that go whole and have a frame."""
        apart = set(self._long(clips))
        usable = np.array(
            [i for i, clip in enumerate(clips) if i not in apart and self.model.frames(len(clip)) > 0],
            dtype=np.int64,
        )
        seconds = np.array([len(clips[i]) / self.rate for i in usable])
        for rows in pack(np.arange(len(usable)), cost(seconds), self.device_seconds):
            indices = usable[rows]
            yield indices, self._forward([clips[i][:] for i in indices], indices)

    def _pieces(self, clip: Samples, heard: Recognition = lambda seconds: None) -> Iterator[torch.Tensor]:
        """Log probabilities of a long recording, (frames, vocabulary), a piece after the other, each frame
        once.
        """
        return joined(self._chunks(clip, heard), self.tokenizer.blank)

    def _chunks(self, clip: Samples, heard: Recognition) -> Iterator[tuple[int, torch.Tensor]]:
        """(first frame, log probabilities) of overlapping chunks of a recording."""
        length, overlap = (
            round(seconds / self.frame) for seconds in (self.chunking.length, self.chunking.overlap)
        )
        frames, squeeze = (
            self.model.frames(len(clip)),
            getattr(self.model.network.config, "squeeze_factor", 1),
        )
        # samples that the first frame takes
        field = next(n for n in range(1, len(clip) + 1) if self.model.frames(n))
        field -= (self.model.frames(field) - 1) * self.hop
        whole = self.model.moments(clip)
        together = max(1, int(self.device_seconds // cost(np.array(self.chunking.length))))
        done = 0
        chunks = spans(frames, length, overlap, squeeze)
        for some in (chunks[i : i + together] for i in range(0, len(chunks), together)):
            ends = [len(clip) if end == frames else (end - 1) * self.hop + field for _, end in some]
            cut = [clip[start * self.hop : end] for (start, _), end in zip(some, ends, strict=True)]
            emissions = self._forward(cut, np.arange(len(cut)), whole)
            log_probs = emissions.logits.log_softmax(-1).cpu()
            heard((ends[-1] - done) / self.rate)
            done = ends[-1]
            for row, (start, _) in enumerate(some):
                yield start, log_probs[row, : emissions.frames[row]]

    def _forward(
        self, clips: Sequence[np.ndarray], indices: np.ndarray, whole: SignalStatistics | None = None
    ) -> Emissions:
        lengths = [len(clip) for clip in clips]
        audio = np.zeros((len(clips), max(lengths)), dtype=np.int16)
        for row, clip in zip(audio, clips, strict=True):
            row[: len(clip)] = clip
        batch = Batch(
            indices, torch.from_numpy(audio), lengths, torch.empty(0, dtype=torch.int32), [0] * len(clips)
        )
        with self._network, torch.inference_mode():
            return self.model(batch.to(self.device), whole)
