# SPDX-License-Identifier: Apache-2.0
"""Tokenised once: the samples of a run in a folder that all ranks map, now and after a restart.

    DIR/KEY/                        a corpus, whole or not there (`stored_samples`)
    DIR/KEY.lock                    held by whoever makes it, while others wait
    DIR/KEY.tmp-HOST-PROCESS/       in the making; of no use to others

KEY is a digest of all that the tokens depend on: the bytes of the files, tokenizer and template,
options, this version. DIR may be on a file system that nodes share, or on each node's own; the
first process there that needs a corpus makes it, with all cores. Where a file system has no locks,
several make it and the first to be done has made it.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from t3s_megatron import __version__
from t3s_megatron.data.corpus import Corpus, tokenizer_fingerprint
from t3s_megatron.data.durable import sha256_file, sync_path
from t3s_megatron.data.files import dataset_fingerprint, is_missing
from t3s_megatron.data.records import Record
from t3s_megatron.errors import MismatchError, WriteError

_FORMAT = 1
#: Bytes of data that a rank reads for itself in about the time that it takes to import `datasets`.
SMALL = 8 * 2**20

#: From the records of each source, without their text, to the names and teachers of them all.
Naming = Callable[[dict[str, list[Record]]], list[Record]]


def cache_of(args) -> CorpusCache | None:
    """Where a run with these arguments of Megatron keeps its tokenised samples: --t3s-data-cache,
    or beside its own files; None where it has none."""
    own = args.t3s_dir or (args.save and os.path.join(args.save, "t3s"))
    folder = args.t3s_data_cache or (own and os.path.join(own, "corpus"))
    return CorpusCache(folder) if folder else None


def _size(file: str) -> int:
    """Bytes; 0 of what cannot be looked at, as whoever reads it says better."""
    try:
        return os.path.getsize(file)
    except OSError:
        return 0


class CorpusCache:
    """The corpora in `folder`. `say`: is told what takes time."""

    def __init__(self, folder: str, say: Callable[[str], None] | None = None):
        self.folder = folder
        self._say = say or (lambda line: print(f"[t3s] {line}", flush=True))

    @staticmethod
    def is_worth_it(sources: Sequence[str]) -> bool:
        """Whether so much is read that it should be kept. A dataset of the hub counts as much."""
        if not all(map(os.path.exists, sources)):
            return not any(map(is_missing, sources))
        files = (file for source in sources for file in _files(source))
        return sum(map(_size, files)) > SMALL

    def corpus(
        self,
        datasets: Mapping[str, Sequence[str]],
        split: str,
        ignored: Collection[str],
        tokenizer,
        how: dict,
        naming: Naming,
    ) -> tuple[Corpus, list[str | None]]:
        """(the samples, the teachers of what was read in order), made or found.

        `datasets`: sources by the name of their dataset; `how`: what `Corpus.build` is told. Errors
        as of `load_training_records` and `Corpus.build`; WriteError when it cannot be kept.
        """
        # Not at the top: pyarrow takes a while to import, `datasets` takes longer.
        from t3s_megatron.data.stored_samples import open_corpus

        path = os.path.join(self.folder, self._key(datasets, split, ignored, tokenizer, how))
        with contextlib.suppress(MismatchError):
            return open_corpus(path)
        try:
            os.makedirs(self.folder, exist_ok=True)
            with _alone(f"{path}.lock", self._say) as is_alone:
                with contextlib.suppress(MismatchError):
                    return open_corpus(path)  # another process has made it meanwhile
                if is_alone:
                    _clear(path)
                temporary = f"{path}.tmp-{socket.gethostname()}-{os.getpid()}"
                os.makedirs(temporary)
                try:
                    from t3s_megatron.data.corpus_making import make_corpus

                    self._say(f"tokenising {', '.join(datasets)}, once for all ranks: {path}")
                    make_corpus(
                        temporary, datasets, split, ignored, tokenizer, how, naming, self._say
                    )
                    sync_path(temporary)
                    with contextlib.suppress(OSError):  # there: another was done first
                        os.rename(temporary, path)
                    sync_path(self.folder)
                finally:
                    shutil.rmtree(temporary, ignore_errors=True)
        except OSError as error:
            raise WriteError(
                f"{self.folder}: the tokenised samples cannot be kept there ({error}). Make room, "
                "or name another folder: --t3s-data-cache"
            ) from error
        return open_corpus(path)

    @staticmethod
    def _key(datasets, split: str, ignored: Collection[str], tokenizer, how: dict) -> str:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        depends_on = [
            _FORMAT,
            __version__,
            _versions(),
            # By name: it is part of what messages say, and may be a teacher's.
            [(name, [(s, _contents(s, split)) for s in some]) for name, some in datasets.items()],
            sorted(ignored),
            tokenizer_fingerprint(tokenizer),
            type(tokenizer).__name__,
            backend.to_str() if backend is not None else None,
            how,
        ]
        return hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:20]


def _versions() -> list[str]:
    import tokenizers
    import transformers

    return [transformers.__version__, tokenizers.__version__]


def _files(source: str) -> list[str]:
    if os.path.isfile(source):
        return [source]
    return sorted(
        os.path.join(folder, name) for folder, _, names in os.walk(source) for name in names
    )


def _contents(source: str, split: str) -> list:
    """What a source holds: digests of its files, or what `datasets` calls a dataset of the hub."""
    if os.path.exists(source):
        return [split, *((os.path.relpath(f, source), sha256_file(f)) for f in _files(source))]
    return [split, dataset_fingerprint(source, split)]


@contextlib.contextmanager
def _alone(path: str, say: Callable[[str], None]) -> Iterator[bool]:
    """Wait until no other process is in here; False where the file system has no locks."""
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            say(f"{path}: no locks there; several processes may do the same work")
            yield False
            return
        yield True  # closing it lets go


def _clear(path: str) -> None:
    """Remove what is damaged, and what others have left when they were killed."""
    for left in (path, *glob.glob(f"{glob.escape(path)}.tmp-*")):
        shutil.rmtree(left, ignore_errors=True)
