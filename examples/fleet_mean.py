"""Windows over a fleet: the mean of one probe for each tenant and minute, with Quix Streams, from Barograph's topic of scores.

    pip install quixstreams
    python fleet_mean.py --brokers 127.0.0.1:9092

reads `barograph.scores` (docs/events/scores.schema.json) of all sidecars and writes `barograph.fleet`, keyed by tenant:
{"tenant": "acme", "probe": "desperation", "since": 1790000000.0, "tokens": 5210, "mean": 0.31}. Several of these share the work, by partitions.
"""

import argparse
from datetime import timedelta

from quixstreams import Application
from quixstreams.dataframe.windows import Count, Sum


def tokens(message: dict, probe: str) -> list[dict]:
    """Each token of a message; its time lies between the first and the last one's. A token without a score has none."""
    values, since, until = message["scores"][probe], message["since"], message["until"]
    step = (until - since) / max(1, len(values) - 1)
    return [
        {"tenant": message["tenant"] or "none", "time": since + step * place, "value": value}
        for place, value in enumerate(values)
        if value is not None
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brokers", default="127.0.0.1:9092")
    parser.add_argument("--probe", default="desperation")
    parser.add_argument("--seconds", type=float, default=60, help="of a window")
    parser.add_argument("--grace", type=float, default=10, help="how late a score may come")
    parser.add_argument("--state", default="state", help="a folder; windows survive a restart there")
    parser.add_argument("--stop-after", type=float, help="end when nothing has come for so many seconds")
    options = parser.parse_args()

    app = Application(broker_address=options.brokers, consumer_group="barograph-fleet-mean", auto_offset_reset="earliest", state_dir=options.state)
    scores = app.topic("barograph.scores", value_deserializer="json", key_deserializer="str")
    fleet = app.topic("barograph.fleet", value_serializer="json", key_serializer="str")

    frame = app.dataframe(scores)
    frame = frame.apply(lambda message: tokens(message, options.probe), expand=True)
    frame = frame.set_timestamp(lambda token, key, timestamp, headers: int(1000 * token["time"]))
    frame = frame.group_by("tenant")
    window = frame.tumbling_window(timedelta(seconds=options.seconds), grace_ms=timedelta(seconds=options.grace))
    frame = window.agg(total=Sum("value"), tokens=Count()).final()
    frame = frame.apply(
        lambda value, key, timestamp, headers: {
            "tenant": key, "probe": options.probe, "since": value["start"] / 1000, "tokens": value["tokens"], "mean": value["total"] / value["tokens"],
        },
        metadata=True,
    )
    frame.to_topic(fleet)
    app.run(timeout=options.stop_after or 0.0)


if __name__ == "__main__":
    main()
