"""A policy engine in sixty lines: reads verdicts from Kafka, and throttles a tenant whose replies fire too many rules.

    pip install kafka-python cryptography
    python policy_engine.py --bootstrap localhost:9092 --issuer engine-1 --key engine-1.pem --rule desperation_rising --tenant loud

`--new-key FILE` makes a key and prints the line for sidecar.kafka.commands.issuers. Each command is signed with it; the sidecar refuses others,
does each id once, and answers on the topic barograph.outcomes.
"""

import argparse
import base64
import json
import time
import uuid

from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from kafka import KafkaConsumer, KafkaProducer


def new_key(path: str) -> None:
    key = Ed25519PrivateKey.generate()
    with open(path, "xb") as file:
        file.write(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()))
    public = key.public_key().public_bytes(form.Encoding.Raw, form.PublicFormat.Raw)
    print(f"{path.removesuffix('.pem')}: {base64.b64encode(public).decode()}")


def run(args: argparse.Namespace) -> None:
    with open(args.key, "rb") as file:
        key = form.load_pem_private_key(file.read(), None)
    producer = KafkaProducer(bootstrap_servers=args.bootstrap, acks="all")
    verdicts = KafkaConsumer(args.verdicts, bootstrap_servers=args.bootstrap, auto_offset_reset=args.since, consumer_timeout_ms=args.for_ms)
    fired = 0
    for message in verdicts:
        record = json.loads(message.value)
        if record["kind"] != "verdict" or record["event"] != "fired" or record["rule"] != args.rule:
            continue
        fired += 1
        if fired == args.after:
            command = {
                "id": str(uuid.uuid4()), "verb": "throttle", "tenant": args.tenant, "limits": {"requests_per_minute": 6}, "issuer": args.issuer,
                "issued_at": time.time(), "reason": f"{args.rule} fired {fired} times",
            }  # fmt: skip
            value = json.dumps(command).encode()
            signature = base64.b64encode(key.sign(value))
            producer.send(args.commands, value, headers=[("barograph-signature", signature)]).get(10)
            print(f"sent {command['verb']} for {args.tenant}: {command['reason']}", flush=True)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
for name, default in {
    "bootstrap": "localhost:9092", "verdicts": "barograph.verdicts", "commands": "barograph.commands", "issuer": "engine-1",
    "key": "engine-1.pem", "rule": "desperation_rising", "tenant": "", "since": "latest", "new-key": "",
}.items():  # fmt: skip
    parser.add_argument(f"--{name}", default=default)
parser.add_argument("--after", type=int, default=3)
parser.add_argument("--for-ms", type=float, default=float("inf"))
arguments = parser.parse_args()
new_key(arguments.new_key) if arguments.new_key else run(arguments)
