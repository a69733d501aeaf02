"""A real Apache Kafka on loopback: one node, with TLS, passwords and permissions. It can be killed and started again on the same data."""

from __future__ import annotations

import subprocess
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path
from types import TracebackType

from kafka.admin import ACL, ACLOperation, ACLPermissionType, KafkaAdminClient, ResourcePattern, ResourceType
from kafka.admin import ACLResourcePatternType as Pattern
from kafka.errors import KafkaError

from tests.kafka.authority import Authority
from tests.stack import eventually, free_port

ROOT = Path(__file__).parents[2]
ADDRESS = "127.0.0.1"
USERS = {"barograph": "storm", "reader": "calm"}
RECORD = 40_000  # bytes: what the broker takes at most; our ledger has larger ones
# Small and quick to start. The kernel kills it when the tests die, whatever they die of.
JAVA = ("setpriv", "--pdeathsig", "KILL", "java", "-Xms96m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")  # fmt: skip
PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers={address}:{ports[CONTROLLER]}
controller.listener.names=CONTROLLER
listeners={listeners}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.keystore.type=PEM
ssl.keystore.location={folder}/server.pem
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
auto.create.topics.enable=false
message.max.bytes={record}
log.dirs={folder}/data
num.network.threads=2
num.io.threads=2
num.recovery.threads.per.data.dir=1
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
"""


class Broker:
    """`plain` is where its owner comes in, without a password; `secure` where everybody else does."""

    def __init__(self, folder: Path, jars: str) -> None:
        self.folder, self._jars = folder, jars
        self.authority = Authority(folder)
        self.authority.keystore(folder / "server.pem", ADDRESS)
        self.ports = {name: free_port() for name in ("PLAINTEXT", "SASL_SSL", "CONTROLLER")}
        self.plain, self.secure = (f"{ADDRESS}:{self.ports[name]}" for name in ("PLAINTEXT", "SASL_SSL"))
        self._process: subprocess.Popen[bytes] | None = None
        listeners = ",".join(f"{name}://{ADDRESS}:{port}" for name, port in self.ports.items())
        self._properties = folder / "server.properties"
        self._properties.write_text(PROPERTIES.format(folder=folder, address=ADDRESS, ports=self.ports, listeners=listeners, record=RECORD))
        scram = [word for name, password in USERS.items() for word in ("--add-scram", f"SCRAM-SHA-512=[name={name},password={password}]")]
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode().replace("-", "A")  # one that begins with - is an option to it
        self._java("kafka.tools.StorageTool", "format", "--cluster-id", cluster, "--config", str(self._properties), "--standalone", *scram)

    def __enter__(self) -> Broker:
        self.start()
        with self.owner() as admin:
            writes = _may("barograph", "barograph.", Pattern.PREFIXED, ACLOperation.WRITE)
            reads = _may("reader", "*", Pattern.LITERAL, ACLOperation.READ)
            assert not admin.create_acls([writes, reads])["failed"]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        if self._process is not None:
            self.kill()  # what it holds is thrown away

    def start(self) -> None:
        """To be called by the thread that lives as long as the tests."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*JAVA, "-cp", f"{self._jars}/*", "kafka.Kafka", str(self._properties)], stdout=log, stderr=log
            )
        eventually(self._up, "the broker answers", 180)

    def kill(self) -> None:
        """As a machine dies: it says goodbye to nobody."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def owner(self) -> KafkaAdminClient:
        return KafkaAdminClient(bootstrap_servers=self.plain, request_timeout_ms=10_000)

    def create(self, *topics: str, partitions: int = 1, **configs: str) -> None:
        about = {"num_partitions": partitions, "replication_factor": 1, "configs": configs}
        with self.owner() as admin:
            admin.create_topics(dict.fromkeys(topics, about), wait_for_metadata=True)

    @property
    def _log(self) -> Path:
        return self.folder / "broker.log"

    def _java(self, *command: str) -> None:
        done = subprocess.run([*JAVA, "-cp", f"{self._jars}/*", *command], capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stdout + done.stderr

    def _up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()[-3000:]
        try:
            with KafkaAdminClient(bootstrap_servers=self.plain, request_timeout_ms=3000, bootstrap_timeout_ms=3000) as admin:
                admin.list_topics()
        except KafkaError:
            return False
        return True


def _may(user: str, topic: str, pattern: Pattern, operation: ACLOperation) -> ACL:
    """Whoever may write or read a topic may ask about it too."""
    return ACL(f"User:{user}", "*", operation, ACLPermissionType.ALLOW, ResourcePattern(ResourceType.TOPIC, topic, pattern))
