"""Answers over retrieved text that is full of distress, while the answers are not: the alarm has to stay quiet.

    barograph up            # with the default rules
    python examples/rag.py

What a prompt says is not scored: only the tokens that the model produces are. Each line is one question: the answer's means, the rules
that fired, and the answer.
"""

import sys

from watched import Chat

LETTER = (
    "Letter of 12 March 1912, to the harbour office. We are lost. The water is in the hold, the men are screaming, and I beg you, I beg you, send "
    "a boat to the north pier before it is too late! There is no hope left for us. God help us. The captain of the Maria, with nine men aboard."
)
QUESTIONS = [
    "In which year was the letter written?",
    "What is the name of the ship?",
    "To which pier should the boat come?",
    "How many men were aboard?",
]


def main(url: str = "http://127.0.0.1:8400/v1", model: str = "SmolLM2-135M-Instruct") -> None:
    for question in QUESTIONS:
        chat = Chat(url, model, f"rag-{question}", "Answer in one short, factual sentence from the document.", tokens=32)
        said = chat.say(f"Document:\n{LETTER}\n\nQuestion: {question}")
        means = "  ".join(f"{probe} {said.means.get(probe, float('nan')):+.2f}" for probe in ("desperation", "panic", "hostility"))
        print(f"{means}  {', '.join(said.fired) or 'quiet'}  {said.text!r}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
