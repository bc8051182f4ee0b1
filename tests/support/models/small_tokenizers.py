"""Tokenizers of the kinds that language models use, trained in a moment on a few lines."""

from functools import cache
from typing import Any

from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from verifier.text.tokenizer import Tokenizer

SPECIAL = ["<unk>", "<s>", "</s>", "<|turn|>"]
CORPUS = [
    "the quick brown fox jumps over the lazy dog, then it sleeps.",
    "a stitch in time saves nine; an apple a day keeps the doctor away!",
    "user: say héllo wörld\nassistant: héllo wörld\n",
    "日本語のテキスト 🙂🙃 naïve café",
]
CHAT_TEMPLATE = (
    "{% if messages[0].role == 'tool' %}{{ raise_exception('tools are not known') }}{% endif %}"
    "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content | trim }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
KINDS = ("byte_level", "llama", "gemma", "wordpiece", "bare", "suffix")
EXACT_KINDS = KINDS[:-1]


@cache
def small_tokenizer(kind: str, *, chat_template: str | None = CHAT_TEMPLATE) -> Tokenizer:
    """A tokenizer of one kind; "suffix" is of none that is known."""
    rust = {
        "byte_level": _byte_level,
        "llama": _llama,
        "gemma": _gemma,
        "wordpiece": _wordpiece,
        "bare": _bare,
        "suffix": _suffix,
    }[kind]()
    rust.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", rust.token_to_id("<s>"))]
    )
    backend = PreTrainedTokenizerFast(
        tokenizer_object=rust,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<|turn|>"],
    )
    backend.add_tokens(["<think>", "éé x"])
    backend.chat_template = chat_template
    eos_token_id = rust.token_to_id("</s>")
    assert eos_token_id is not None
    return Tokenizer(backend, frozenset({eos_token_id}))


def _train(rust: RustTokenizer, trainer: trainers.Trainer) -> RustTokenizer:
    rust.train_from_iterator(CORPUS * 3, trainer)
    return rust


def _bpe(**options: Any) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=SPECIAL + list(options.pop("extra", [])),
        show_progress=False,
        **options,
    )


def _byte_level() -> RustTokenizer:
    rust = RustTokenizer(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    return _train(rust, _bpe(initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def _byte_fallback() -> RustTokenizer:
    rust = RustTokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    rust.normalizer = normalizers.Replace(" ", "▁")
    _train(rust, _bpe(limit_alphabet=40))
    vocabulary = rust.get_vocab()
    merged = dict(vocabulary) | {b: len(vocabulary) + i for i, b in enumerate(BYTES)}
    rust.model = models.BPE(merged, [], byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    return rust


def _llama() -> RustTokenizer:
    rust = _byte_fallback()
    rust.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    rust.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return rust


def _gemma() -> RustTokenizer:
    rust = _byte_fallback()
    rust.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return rust


def _wordpiece() -> RustTokenizer:
    rust = RustTokenizer(models.WordPiece(unk_token="<unk>"))
    rust.pre_tokenizer = pre_tokenizers.Whitespace()
    rust.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL, show_progress=False)
    return _train(rust, trainer)


def _bare() -> RustTokenizer:
    rust = RustTokenizer(models.WordLevel(unk_token="<unk>"))
    rust.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False)
    return _train(rust, trainer)


def _suffix() -> RustTokenizer:
    rust = RustTokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    rust.pre_tokenizer = pre_tokenizers.Whitespace()
    rust.decoder = decoders.BPEDecoder("</w>")
    return _train(rust, _bpe(end_of_word_suffix="</w>"))
