"""What a file of a language model or of words is, by its content, whatever its name: an ARPA file, a binary
of KenLM, or text; each may be packed by gzip, bzip2 or xz.
"""

import bz2
import gzip
import hashlib
import lzma
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from asr_exp.core.errors import UserError
from asr_exp.decoding.ngram import BEGIN, END, UNKNOWN, vocabulary

ARPA = b"\\data\\"
KENLM = b"mmap lm http://kheafield.com/code"
KENLM_VERSION = KENLM + b" format version 5\n"
# Where the head of a binary has the order, whether it has its words, and the numbers of n-grams (lm/
# binary_format.cc of KenLM): after 88 bytes that prove the machine's way to write numbers.
KENLM_HEAD = struct.Struct("<88xB11x?7x")
PACKED: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
BROKEN = (OSError, EOFError, lzma.LZMAError, zlib.error)  # what a packed file raises
OTHERS = {  # the first bytes of files that are often given instead
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"\x28\xb5\x2f\xfd": "packed by zstd; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"\xff\xfe": "text in UTF-16; write it in UTF-8",
    b"\xfe\xff": "text in UTF-16; write it in UTF-8",
}


def is_kenlm(path: Path) -> bool:
    """Whether a file is a binary of KenLM."""
    with path.open("rb") as file:
        return file.read(len(KENLM)) == KENLM


def find_model(path: Path, cache: Path, key: str, advice: str) -> Path | None:
    """The ARPA file or the binary of KenLM that a file is, unpacked into the cache where it is packed; None
    for text.

    Args:
        path: the file.
        cache: the folder for what is unpacked.
        key: what names the file in the config, for messages.
        advice: what to give instead, for messages.

    Raises:
        UserError: the file cannot be read, or is none of these.
    """
    head = _head(path, key, advice)
    name = path.name
    if opener := _opener(head):
        name = path.stem
        head = _read(opener, path, key, advice, 2**16)
    of_arpa = head.lstrip().startswith(ARPA) or name.endswith(".arpa")
    if opener and (of_arpa or head.startswith(KENLM)):
        path = _unpacked(path, opener, cache, key, advice)
    if head.startswith(KENLM):
        if not head.startswith(KENLM_VERSION):
            problem = "was never finished" if b"incomplete" in head else "is of another version than 5"
            raise UserError(f"{key}={path} is a binary of KenLM that {problem}; build it again.")
        return path
    return path if of_arpa else None


def read_content(path: Path, key: str, advice: str) -> bytes:
    """The content of a text file in UTF-8, unpacked. Raises UserError where it is not text, or a model."""
    content = _read(_opener(_head(path, key, advice)) or open, path, key, advice)
    for kind, magic in (("a binary of KenLM", KENLM), ("an ARPA file", ARPA)):
        if content.lstrip().startswith(magic):
            raise UserError(f"{key}={path} is {kind}, no text; give it as decode.lm, or {advice}.")
    if b"\0" in content:
        raise _unreadable(path, key, advice, "it is binary, no text")
    try:
        content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _unreadable(path, key, advice, "it is not text in UTF-8") from None
    return content


def words_of(path: Path) -> list[str]:
    """The words of an ARPA file or of a binary of KenLM, without <unk>, <s> and </s>. Raises UserError where
    the file is damaged, and for a binary that was built without them.
    """
    if not is_kenlm(path):
        return vocabulary(path)
    content = path.read_bytes()
    try:
        order, has_words = KENLM_HEAD.unpack_from(content)
        (count,) = struct.unpack_from("<Q", content, KENLM_HEAD.size)
    except struct.error:
        order = count = 0
    if not order or not count:
        raise UserError(f"{path} is no whole binary of KenLM; build it again.")
    if not has_words:
        raise UserError(
            f"{path}, a binary of KenLM, was built without its words; give decode.lexicon=FILE with a word a"
            " line, or the ARPA file."
        )
    # The words are at the end, one zero byte after each; <unk> comes first.
    words = content[content.rfind(b"<unk>\0") :].split(b"\0")[:-1]
    try:
        texts = [word.decode() for word in words]
    except UnicodeDecodeError:
        texts = []
    if len(texts) != count or not content.endswith(b"\0"):
        raise UserError(f"{path} is no whole binary of KenLM: its words are damaged; build it again.")
    return [word for word in texts if word not in (UNKNOWN, BEGIN, END)]


def _head(path: Path, key: str, advice: str) -> bytes:
    """The first bytes of a file. Raises UserError where it cannot be read, or is known not to be of use."""
    if path.is_dir():
        raise _unreadable(path, key, advice, "it is a folder")
    if path.exists() and not path.is_file():
        raise _unreadable(path, key, advice, "it is no file, but a pipe or a device")
    try:
        with path.open("rb") as file:
            head = file.read(256)
    except OSError as why:
        raise _unreadable(path, key, advice, why) from None
    if not head:
        raise _unreadable(path, key, advice, "it is empty, with no words in it")
    for magic, what in OTHERS.items():
        if head.startswith(magic):
            raise UserError(f"{key}={path} is {what}, or {advice}.")
    return head


def _read(opener: Callable[..., IO[bytes]], path: Path, key: str, advice: str, most: int = -1) -> bytes:
    """The content of a file, unpacked, or its first bytes. Raises UserError where it is damaged."""
    try:
        with opener(path, "rb") as file:
            return file.read(most)
    except BROKEN as why:
        raise _unreadable(path, key, advice, why) from None


def _opener(head: bytes) -> Callable[..., IO[bytes]] | None:
    return next((opener for magic, opener in PACKED.items() if head.startswith(magic)), None)


def _unpacked(path: Path, opener: Callable[..., IO[bytes]], cache: Path, key: str, advice: str) -> Path:
    """The content of a packed file in a file of the cache, whose name is a hash of the packed content."""
    with path.open("rb") as packed:
        digest = hashlib.file_digest(packed, "blake2b").hexdigest()[:16]
    target = cache / f"{digest}.unpacked"
    temporary = target.with_name(f"{target.name}.{os.getpid()}.new")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with opener(path, "rb") as source, temporary.open("wb") as file:  # its own checksum is checked here
            shutil.copyfileobj(source, file, 2**20)
        os.replace(temporary, target)
    except BROKEN as why:
        temporary.unlink(missing_ok=True)
        raise _unreadable(path, key, advice, why) from None
    return target


def _unreadable(path: Path, key: str, advice: str, why: Any) -> UserError:
    reason = getattr(why, "strerror", None) or str(why).splitlines()[0]
    return UserError(f"{key}={path} cannot be read ({reason}); {advice}.")
