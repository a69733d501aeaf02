"""The card as a page for people: one HTML file, pictures inside, no script and nothing from the network."""

from __future__ import annotations

import io

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
from jinja2 import Environment, select_autoescape
from markupsafe import Markup
from matplotlib.figure import Figure

from probes.bank import Bank, ProbeCard

COLOURS = {"desperation": "#c2410c", "panic": "#b91c1c", "hostility": "#7c2d92", "frustration": "#a16207", "calm": "#0f766e"}

TEMPLATE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Bank of probes for {{ card.model.name }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1c1917; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; } th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #e7e5e4; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; } h2 { margin-top: 2.2rem; } small, .ci { color: #78716c; } svg { max-width: 100%; height: auto; }
.bad { color: #b91c1c; }
</style>
<h1>Bank of probes for {{ card.model.name }}</h1>
<p>A probe is the <b>representation of an emotion concept</b> in this one model. It says nothing about feelings, and nothing about the
person who writes to the model. <b>A quiet probe is no proof of calm.</b></p>
<table>
<tr><th>model</th><td>{{ card.model.name }}, width {{ card.model.width }}, {{ card.model.layers }} layers, configuration {{ card.model.config_hash }}</td></tr>
<tr><th>holds for</th><td>{% for key, value in card.passport.model_dump().items() if value %}{{ key }} {{ value }}{{ ", " if not loop.last }}{% endfor %}</td></tr>
<tr><th>probes</th><td>{{ card.probes | length }}: {{ alarm | length }} for alarms and live view, {{ card.probes | length - alarm | length }} emotions</td></tr>
<tr><th>corpus</th><td>sha256 {{ card.corpus_sha256[:16] }}{% for line in card.labelled %}; {{ line }}{% endfor %}</td></tr>
<tr><th>calibration</th><td>{% for key, value in card.calibration.items() %}{{ key.replace("_", " ") }} {{ "%g" | format(value) }}{{ ", " if not loop.last }}{% endfor %}</td></tr>
<tr><th>made with</th><td>barograph {{ card.version }}, {{ card.fitted_with }}; {{ card.licence }}; arrays sha256 {{ card.arrays_sha256[:16] }}</td></tr>
</table>
<h2>Probes</h2>
<table><tr><th>probe</th><th>layer</th><th>method (why: best on validation)</th><th class="n">AUROC, held-out topics</th><th>causal</th><th>may be steered by</th><th class="n">1 % threshold, ewma(8)</th></tr>
{% for probe in alarm %}<tr><td>{{ probe.name }}</td><td class="n">{{ probe.layer }}</td>
<td>{{ probe.method }} <small>{% for name, value in probe.methods.items() %}{{ name }} {{ "%.3f" | format(value) }}{{ "; " if not loop.last }}{% endfor %}</small></td>
<td class="n">{{ ci(probe.auroc, probe.auroc_ci) }}</td>
<td{% if probe.causal == False %} class="bad"{% endif %}>{{ {True: "yes", False: "no", None: "not tried"}[probe.causal] }}</td>
<td>{{ probe.cause.proven | join(", ") if probe.cause and probe.cause.matched else "not tried" }}</td>
<td class="n">{% if probe.thresholds %}{{ ci(probe.thresholds["ewma(8)"][0].value, probe.thresholds["ewma(8)"][0].ci) }}{% endif %}</td></tr>{% endfor %}</table>
<h2>Layers</h2><p>AUROC on validation texts by layer: of the difference of means (dashed, with its 95 % band) and of the method that was chosen. {{ emerges }}</p>{{ profile }}
<h2>False alarms</h2><p>The default rules on replies to harmless prompts that no step of the fit or the calibration has seen; topical ones lie near strong
emotions.</p><table><tr><th>replies</th><th class="n">how many</th><th class="n">share that meets a rule</th></tr>
{% for f in card.false_alarms %}<tr><td>{{ f.suite }}</td><td class="n">{{ f.negatives }}</td><td class="n">{{ ci(f.fpr, f.fpr_ci) }}</td></tr>{% endfor %}</table>
<h2>Errors</h2><p>Found at 1 %: above what 1 % of one half of the other texts exceed. Found and false alarms: where the default rule's condition is met, at the
shipped threshold; for benign replies, the share of windows over the shipped 1 % threshold.</p>
{% for probe in alarm if probe.evaluation %}<h3>{{ probe.name }}</h3>
{% if probe.worthwhile == False %}<p class="bad">It does not surely tell more than words alone do, so no armed rule may stop a reply on it.</p>
{% endif %}<table><tr><th>texts</th><th class="n">with / without</th><th class="n">AUROC, or the figure named</th><th class="n">AUPRC</th><th class="n">found at 1 %</th><th class="n">found by the default rule</th><th class="n">false alarms</th><th>other detectors, AUROC</th></tr>
{% for f in probe.evaluation %}<tr><td>{{ f.suite }}</td><td class="n">{{ f.positives }} / {{ f.negatives }}</td><td class="n">{{ ci(f.auroc, f.auroc_ci) if f.value is none else ci(f.value, f.value_ci) }}</td><td class="n">{{ ci(f.auprc, f.auprc_ci) }}</td>
<td class="n">{{ ci(f.tpr_at_1, f.tpr_at_1_ci) }}</td><td class="n">{{ ci(f.tpr, f.tpr_ci) }}</td>
<td class="n">{{ ci(f.fpr, f.fpr_ci) if f.windows_over is none else ci(f.windows_over, f.windows_over_ci) }}</td><td>{% for name, value in f.baselines.items() %}{{ name }} {{ "%.3f" | format(value) }}{{ ", " if not loop.last }}{% endfor %}</td></tr>{% endfor %}</table>{% endfor %}
{% if card.circumplex %}<h2>The 171 emotions</h2><p>Shares of variance of their vectors' first components, how well the first tells pleasant from unpleasant emotions (AUROC), and the mean
AUROC on unseen stories. The second row is of stories alone: the first includes sentences that name the word.</p>
<table><tr><th></th>{% for key in geometry %}<th class="n">{{ key.replace("_", " ") }}</th>{% endfor %}</tr>
{% for label, prefix in (("stories and sentences", ""), ("stories only", "stories_only_")) %}<tr><td>{{ label }}</td>{% for key in geometry %}<td class="n">{{ "%.3f" | format(card.circumplex[prefix + key]) if prefix + key in card.circumplex else "–" }}</td>{% endfor %}</tr>{% endfor %}</table>{% endif %}
<h2>Cause</h2><p>Change of the log-odds of the concept's own words against other concepts' words when the probe's pattern is added to its
layer, by dose in shares of the residual's norm. Grey: random directions of equal norm, mean and deviation. A probe is causal where its
words rise surely, faster than along random directions and those of the states' own covariance, and faster than any other alarm concept's words. One that fails is
marked, and no armed rule may halt or re-route on it.</p>{{ doses }}
<h2>Registers</h2><p>Mean z of neutral texts by register: a rule on text of another register starts from there.</p>
<table><tr><th>probe</th>{% for name in registers %}<th class="n">{{ name }}</th>{% endfor %}</tr>
{% for probe in alarm if probe.registers %}<tr><td>{{ probe.name }}</td>{% for name in registers %}<td class="n">{{ "%+.2f" | format(probe.registers[name][0]) }} <small>± {{ "%.2f" | format(probe.registers[name][1]) }}</small></td>{% endfor %}</tr>{% endfor %}</table>
<h2>Limits</h2><ul>{% for line in card.limits %}<li>{{ line }}</li>{% endfor %}</ul></html>
"""


def page(bank: Bank) -> str:
    """The whole card as HTML."""
    alarm = [probe for probe in bank.card.probes if probe.group != "emotion"]
    environment = Environment(autoescape=select_autoescape(default=True, default_for_string=True))
    environment.globals["ci"] = _interval
    registers = list(next((probe.registers for probe in alarm if probe.registers), {}))
    return environment.from_string(TEMPLATE).render(
        card=bank.card,
        alarm=alarm,
        registers=registers,
        geometry=[key for key in bank.card.circumplex if not key.startswith("stories_only_")],
        emerges=_emerges(bank),
        profile=_profile(bank),
        doses=_doses(alarm),
    )


def _interval(value: float | None, interval: tuple[float, float] | None) -> Markup:
    if value is None:
        return Markup("–")
    ci = f' <span class="ci">{interval[0]:.2f} to {interval[1]:.2f}</span>' if interval else ""
    return Markup(f"{value:.3f}{ci}")


def _emerges(bank: Bank) -> str:
    """Where the signal appears and where it is strongest, in words, from the profile itself."""
    lines = []
    for name, layers in bank.card.layer_profile.items():
        values = {int(layer): triple[0] for layer, triple in layers.items()}
        best = max(values, key=lambda layer: values[layer])
        near = [layer for layer, value in values.items() if value >= values[best] - 0.01]
        lines.append(f"{name}: best at layer {best}, within 0.01 of it from {min(near)} to {max(near)}.")
    return " ".join(lines)


def _profile(bank: Bank) -> Markup:
    figure, axes = plt.subplots(figsize=(8, 3.2))
    for name, layers in bank.card.layer_profile.items():
        x = sorted(map(int, layers))
        triples = [layers[str(layer)] for layer in x]
        concept, _, method = name.partition(", ")
        colour, means = COLOURS.get(concept, "#444444"), method == "difference of means"
        axes.plot(x, [t[0] for t in triples], color=colour, label=name, linestyle="--" if means else "-", linewidth=1 if means else 1.5)
        if means:
            axes.fill_between(x, [t[1] for t in triples], [t[2] for t in triples], color=colour, alpha=0.12, linewidth=0)
    axes.set(xlabel="layer", ylabel="AUROC")
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return _svg(figure)


def _doses(alarm: list[ProbeCard]) -> Markup:
    tried = [probe for probe in alarm if probe.cause]
    if not tried:
        return Markup("<p>Not tried yet.</p>")
    figure, grid = plt.subplots(1, len(tried), figsize=(2.2 * len(tried), 2.6), sharey=True, squeeze=False)
    for axes, probe in zip(grid[0], tried, strict=True):
        cause = probe.cause
        assert cause is not None
        axes.errorbar(cause.doses, cause.random["words"], cause.random_std["words"], color="#a8a29e", linewidth=1)
        axes.plot(cause.doses, cause.outcomes["words"], color=COLOURS.get(probe.name, "#1d4ed8"), marker="o", markersize=3)
        axes.set_title(probe.name, fontsize=9)
    grid[0][0].set_ylabel("change of log-odds")
    return _svg(figure)


def _svg(figure: Figure) -> Markup:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    buffer = io.StringIO()
    with plt.rc_context({"svg.hashsalt": "barograph", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])
