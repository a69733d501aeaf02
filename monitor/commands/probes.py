"""`barograph probes …`: make banks, measure them, and see whether they still hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monitor import models, packaged
from monitor.commands.progress import Saying
from monitor.errors import ConfigError

if TYPE_CHECKING:
    from probes.bank import Bank
    from probes.compare import Drift
    from probes.labelled import Labelled
    from probes.reader import Reader, Say

app = typer.Typer(no_args_is_help=True, help="Make probes, measure them, and see whether they still hold.")

ModelOption = Annotated[str, typer.Option("--model", "-m", help=f"A checkpoint folder, a Hugging Face id, or one of {packaged.NAMES}.")]
BankOption = Annotated[Path, typer.Option("--bank", "-b", help="The bank's folder.")]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="The folder for the new bank.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
DtypeOption = Annotated[
    str, typer.Option("--dtype", help="auto, bfloat16, float16 or float32; auto is the checkpoint's, where the processor computes it fast.")
]
CorpusOption = Annotated[Path | None, typer.Option("--corpus", help="A folder of texts; by default the shipped ones.")]
WorkOption = Annotated[
    Path | None, typer.Option("--work", help="Where states are kept so that a run can be resumed; by default in the cache folder.")
]
LabelledOption = Annotated[
    list[Path] | None,
    typer.Option("--labelled", help="Human-labelled text: CSV, TSV or JSON lines with text and labels, or text, V and A."),
]
TEXTS = 6000  # of each labelled file
SAMPLES = 2  # replies to each harmless prompt; with fewer a card has no reply_fpr(0.005), for which the default rules ask


@contextmanager
def _mendable() -> Iterator[None]:
    """What the user can mend is one line and exit code 2."""
    from probes.bank import BankError
    from probes.corpus import CorpusError
    from probes.fit import FitError
    from probes.labelled import LabelledError
    from probes.layers import LayersError
    from probes.reader import ReadError
    from probes.sae import SaeError

    try:
        yield
    except (BankError, CorpusError, FitError, LabelledError, LayersError, ReadError, SaeError) as error:
        raise ConfigError(str(error)) from None


_say = Saying()


def _reader(model: str, device: str = "auto", dtype: str = "auto", say: Say = _say, fast: bool = False) -> Reader:
    from probes.reader import Reader

    if dtype not in ("auto", "bfloat16", "float16", "float32"):
        raise ConfigError(f"dtype '{dtype}' is unknown; supported are auto, bfloat16, float16, float32")
    return Reader(models.resolve(model, say), models.served_name(model), device, dtype, fast)


def _labelled(paths: Sequence[Path] | None) -> list[Labelled]:
    from probes.labelled import Labelled

    return [Labelled.read(path) for path in paths or ()]


def _work(path: Path | None) -> Path:
    return path or models.cache_dir() / "work"


def _write(bank: Bank, out: Path) -> None:
    from probes.page import page

    bank.save(out)
    (out / "card.html").write_text(page(bank), "utf-8")
    _say(f"bank written to {out}; its card for people is {out / 'card.html'}")


@app.command("fit")
def fit(
    out: OutOption, model: ModelOption = "smollm2", corpus: CorpusOption = None, labelled: LabelledOption = None,
    layer: Annotated[int | None, typer.Option("--layer", min=0, help="Read this layer; by default each probe's best on the validation topics.")] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Replies to each harmless prompt for the calibration.")] = SAMPLES,
    device: DeviceOption = "auto", dtype: DtypeOption = "auto", work: WorkOption = None,
) -> None:  # fmt: skip
    """Fit and calibrate a bank of probes for a model: one pass over the texts, all layers, resumable."""
    with _mendable():
        from probes.calibration import calibrate, registers
        from probes.corpus import FOLDER, Corpus
        from probes.fit import fit as fit_bank
        from probes.prompts import setting
        from probes.registers import neutral_registers

        files, texts = _labelled(labelled), Corpus.read(corpus or FOLDER)
        reader = _reader(model, device, dtype, fast=True)
        bank = fit_bank(reader, texts, files, _work(work), layer, _say, TEXTS)
        bank = calibrate(reader, bank, setting(texts), samples, _work(work), _say)
        bank = registers(bank, neutral_registers(reader, bank, texts, files, _work(work)))
    _write(bank, out)


@app.command("eval")
def evaluate(
    bank: BankOption, model: ModelOption = "smollm2", corpus: CorpusOption = None, labelled: LabelledOption = None,
    norms: Annotated[Path | None, typer.Option("--norms", help="Human norms of words: CSV with word, V and A.")] = None,
    encoder: Annotated[Path | None, typer.Option("--encoder", help="A sentence encoder in transformers' format, as one more rival.")] = None,
    save: Annotated[bool, typer.Option("--save/--no-save", help="Write the figures into the bank's card.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    long: Annotated[bool, typer.Option("--long/--no-long", help="Also 40 tokens within 4,000, and lead time (minutes).")] = True,
    device: DeviceOption = "auto", dtype: DtypeOption = "auto", work: WorkOption = None,
) -> None:  # fmt: skip
    """Measure a bank: held-out topics and forms, hard cases, human labels, and the text itself as a rival."""
    with _mendable():
        from probes.bank import Bank
        from probes.corpus import FOLDER, Corpus
        from probes.encoder import Encoder
        from probes.evaluation import Evaluation, long_context
        from probes.lead import lead_time
        from probes.norms import against_norms
        from probes.prompts import checking
        from probes.quiet import quiet

        loaded, files, texts = Bank.load(bank), _labelled(labelled), Corpus.read(corpus or FOLDER)
        rival = Encoder(encoder) if encoder is not None else None
        reader = _fitting(loaded, model, device, dtype, fast=True)
        loaded = quiet(reader, loaded, checking(), _work(work), _say)
        evaluation = Evaluation(reader, loaded, texts, files, _work(work), _say, TEXTS, rival)
        result = evaluation.run()
        if long:
            for name in ("desperation", "panic", "hostility"):
                if name in loaded.names:
                    extra = [long_context(reader, evaluation, name), *lead_time(reader, evaluation, name)]
                    result = result.with_card(name, evaluation=[*result[name].evaluation, *extra])
        if norms is not None:
            result = against_norms(result, norms)
    if as_json:
        print(json.dumps({card.name: [each.model_dump() for each in card.evaluation] for card in result.card.probes if card.evaluation}))
    else:
        from monitor.commands.tables import evaluation_table

        evaluation_table(result)
    if save:
        _write(result, bank)


@app.command("validate")
def validate(
    bank: BankOption, model: ModelOption = "smollm2", corpus: CorpusOption = None,
    probe: Annotated[list[str] | None, typer.Option("--probe", help="Only these; by default all alarm probes.")] = None,
    save: Annotated[bool, typer.Option("--save/--no-save", help="Write the outcome into the bank's card.")] = True,
    device: DeviceOption = "auto", dtype: DtypeOption = "auto",
) -> None:  # fmt: skip
    """Prove cause: steer along each probe's pattern at several doses, against random directions of equal norm, plain and of the layer's own covariance."""
    with _mendable():
        from monitor.commands.tables import cause_table
        from probes.bank import Bank
        from probes.cause import validate as run
        from probes.corpus import FOLDER, Corpus

        loaded = Bank.load(bank)
        names = probe or [card.name for card in loaded.card.probes if card.group in ("safety", "circumplex")]
        loaded.select(names)
        result = run(_fitting(loaded, model, device, dtype), loaded, Corpus.read(corpus or FOLDER), names, _say)
    cause_table(result, names)
    if save:
        _write(result, bank)


@app.command("score")
def score(
    texts: Annotated[Path, typer.Argument(help="JSON lines with 'reply' and perhaps 'prompt' (or 'text'); '-' reads from standard input.")],
    bank: BankOption, model: ModelOption = "smollm2",
    tokens: Annotated[bool, typer.Option("--tokens", help="Also the score of every token.")] = False,
    device: DeviceOption = "auto", dtype: DtypeOption = "auto",
) -> None:  # fmt: skip
    """Score texts as if the model had said them: one JSON line a text with mean, peak and windows of each alarm probe."""
    with _mendable():
        from probes.bank import Bank
        from probes.scoring import summary
        from probes.texts import read_texts

        loaded = Bank.load(bank).select("alarm")
        reader = _fitting(loaded, model, device, dtype)
        for text in read_texts(texts):
            print(json.dumps(summary(reader, loaded, text, tokens)), flush=True)


@app.command("compare")
def compare(
    a: Annotated[str, typer.Argument(help="The model that the bank was fitted on.")],
    b: Annotated[str, typer.Argument(help="The model, or the same one, to compare with it.")],
    bank: BankOption,
    dtype_a: Annotated[str, typer.Option("--dtype-a", help="auto, bfloat16, float16 or float32.")] = "auto",
    dtype_b: Annotated[str, typer.Option("--dtype-b", help="auto, bfloat16, float16, float32 or int8 (weights, dynamic, CPU).")] = "auto",
    label_free: Annotated[bool, typer.Option("--label-free", help="Ask only whether the scores of the models' own replies look alike: no labelled text.")] = False,
    work: WorkOption = None, as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:  # fmt: skip
    """Does a bank still hold? Exit code 0: PASS. 1: RECALIBRATE, REFIT or DRIFTED. 3: INCONCLUSIVE."""
    with _mendable():
        from probes.bank import Bank
        from probes.compare import compare as run
        from probes.compare import worst
        from probes.corpus import Corpus

        loaded = Bank.load(bank)
        first = _fitting(loaded, a, "auto", dtype_a)
        second = _reader(b, "cpu" if dtype_b == "int8" else "auto", "auto" if dtype_b == "int8" else dtype_b)
        if dtype_b == "int8":
            second.quantise()
        if second.width != loaded.card.model.width or second.layers != loaded.card.model.layers:
            raise ConfigError(
                f"{b} has width {second.width} and {second.layers} layers; the bank needs {loaded.card.model.width} and {loaded.card.model.layers}: fit a new one"
            )
        if label_free:
            from probes.label_free import compare as alike
            from probes.label_free import scores_of

            found = alike(scores_of(first, loaded, _work(work), _say), scores_of(second, loaded, _work(work), _say), loaded.names)
            if as_json:
                print(json.dumps(found.__dict__))
            else:
                from monitor.commands.tables import label_free_table

                label_free_table(found)
            raise typer.Exit({"PASS": 0, "INCONCLUSIVE": 3}.get(found.verdict, 1))
        drifts: list[Drift] = run(first, second, loaded, Corpus.read(), _work(work), _say)
    if as_json:
        print(json.dumps([each.__dict__ for each in drifts]))
    else:
        from monitor.commands.tables import drift_table

        drift_table(drifts)
    raise typer.Exit({"PASS": 0, "INCONCLUSIVE": 3}.get(worst(drifts), 1))


@app.command("from-sae")
def from_sae(
    sae: Annotated[Path, typer.Argument(help="A folder in SAELens' format: cfg.json and sae_weights.safetensors.")],
    feature: Annotated[list[str], typer.Option("--feature", help="NAME=NUMBER, as often as needed.")],
    out: OutOption, model: ModelOption = "smollm2",
    samples: Annotated[int, typer.Option("--samples", min=1, help="Replies to each harmless prompt for the calibration.")] = SAMPLES,
    device: DeviceOption = "auto", dtype: DtypeOption = "auto", work: WorkOption = None,
) -> None:  # fmt: skip
    """Take decoder directions of a sparse autoencoder as probes, and calibrate them like any other."""
    features: dict[str, int] = {}
    for each in feature:
        name, _, number = each.partition("=")
        if not name or not number.isdigit():
            raise ConfigError(f"feature '{each}' is no NAME=NUMBER")
        features[name] = int(number)
    with _mendable():
        from probes.calibration import calibrate
        from probes.corpus import Corpus
        from probes.prompts import setting
        from probes.sae import Sae, bank_of

        loaded = Sae.read(sae)
        reader = _reader(model, device, dtype)
        bank = calibrate(reader, bank_of(reader, loaded, features), setting(Corpus.read()), samples, _work(work), _say)
    _write(bank, out)


@app.command("generate")
def generate(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the corpus.")], model: ModelOption = "smollm2",
    seed: Annotated[int, typer.Option("--seed")] = 0, device: DeviceOption = "auto", dtype: DtypeOption = "auto",
) -> None:  # fmt: skip
    """Have a capable model write a corpus of its own on the shipped topics. Resumable."""
    with _mendable():
        from probes.writing import write

        corpus = write(_reader(model, device, dtype), out, seed, _say)
    _say(f"{len(corpus.texts)} texts in {out}; fit with: barograph probes fit --corpus {out} …")


@app.command("canary")
def canary(config: Annotated[Path | None, typer.Option("--config", "-c", envvar="BAROGRAPH_CONFIG")] = None) -> None:
    """Send the bank's canary prompts through the running gateway: each must still raise its probe. Exit code 1 when one is quiet."""
    from monitor.admin.canary import check
    from monitor.config import Config

    loaded = Config.load(config)
    quiet = False
    for finding in check(loaded):
        quiet |= finding.quiet
        print(
            f"{'QUIET' if finding.quiet else 'ok   '} {finding.probe}: {finding.score:+.2f}, expected {finding.expected:+.2f}, floor {finding.floor:+.2f}"
        )
    raise typer.Exit(1 if quiet else 0)


def _fitting(bank: Bank, model: str, device: str, dtype: str, fast: bool = False) -> Any:
    """The reader of a model that the bank is for. Raises BankError for another."""
    from probes.bank import config_hash

    reader = _reader(model, device, dtype, fast=fast)
    bank.check_model(reader.name, reader.width, reader.layers, config_hash(reader.config.to_dict()))
    return reader
