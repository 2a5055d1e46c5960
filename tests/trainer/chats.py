"""Small tokenizers with the special tokens of public chat formats, templates of our own, and what a row looks like with its loss marked."""

import itertools
from types import SimpleNamespace

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from finetune_trainer.encode import Encoder
from finetune_trainer.rows import Row

FIELD = "spec.dataset.uri"
_SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PLAIN = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPACED = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content | trim + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content | trim + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
OPENS_THOUGHT = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>' + m.content }}"
    "{% elif m.role == 'assistant' %}{{ '<|assistant|>' + m.content.split('</think>')[-1] + eos_token }}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}"
)
THOUGHTS = (
    "{% set ns = namespace(last=-1) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}"
    "{% if m.role != 'assistant' %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% else %}{% set text = m.content or '' %}{% set thought = m.reasoning_content or '' %}"
    "{% if '</think>' in text %}{% set thought = text.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<|im_start|>assistant\n' }}"
    "{% if loop.index0 > ns.last and (loop.last or thought) %}{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}{{ text }}"
    "{% for c in m.tool_calls or [] %}{{ '\n<tool_call>\n' + c.function | tojson + '\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_tokenizer(*, eos="<|im_end|>", bos="<|begin_of_text|>", trims=False, adds=None):
    """Bytes and a few words; `adds` is what the tokenizer puts around a text by itself, such as "<s> $A </s>"."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|user|>", "<|assistant|>", "<|begin_of_text|>", "<|start_header_id|>"]
    special += ["<|end_header_id|>", "<|eot_id|>", "<s>", "</s>"]
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_SPLIT), "isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["Port nine, the answer: port and so on"] * 3, trainer)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trims, add_prefix_space=False, use_regex=False)
    if adds is not None:
        tokens = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
        tokenizer.post_processor = processors.TemplateProcessing(single=adds, special_tokens=tokens)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in _PLAIN])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, bos_token=bos)


def encode(tokenizer, content, *, template=CHATML, form="messages", trains_on_all=False, day=None, **how):
    rows = SimpleNamespace(form=form, field=FIELD)
    return Encoder(rows, tokenizer, trains_on_all=trains_on_all, template=template, day=day).encode(Row(number=1, content=content), **how)


def shown(tokenizer, ids, marks):
    """The row's text with `[[` and `]]` around what carries loss."""
    pieces = []
    for is_target, group in itertools.groupby(zip(marks, ids, strict=True), key=lambda pair: bool(pair[0])):
        text = tokenizer.decode([token for _, token in group])
        pieces.append(f"[[{text}]]" if is_target else text)
    return "".join(pieces)


def marked(tokenizer, content, **options):
    encoded = encode(tokenizer, content, **options)
    return shown(tokenizer, encoded.ids, encoded.is_target)


def said(*turns):
    """user and assistant in turn, from their texts."""
    return {"messages": [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(turns)]}
