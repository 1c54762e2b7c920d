"""The jars of Kafka, Kafka Connect and Debezium: where they are kept and which must be there."""

from pathlib import Path

from millrace.stack import services
from millrace.stack.errors import StackIncomplete

REQUIRED = (
    f"kafka_2.13-{services.KAFKA_VERSION}.jar",
    f"connect-runtime-{services.KAFKA_VERSION}.jar",
    f"connect-json-{services.KAFKA_VERSION}.jar",
    f"connect-transforms-{services.KAFKA_VERSION}.jar",
    f"debezium-connector-postgres-{services.DEBEZIUM_VERSION}.jar",
)
"""What pom.xml names; everything else there is because one of these needs it."""


def default_jars() -> Path:
    """`build/jars` beside the packages: where `make jars` puts what pom.xml names."""
    return Path(__file__).resolve().parents[2] / "build" / "jars"


def check_jars(jars: Path) -> None:
    """Refuse a folder that lacks a jar.

    Raises:
        StackIncomplete: names what is missing and the command that fetches it.
    """
    missing = [name for name in REQUIRED if not (jars / name).is_file()]
    if missing:
        raise StackIncomplete(
            f"the jars of Kafka and Debezium are not in {jars} (missing: {', '.join(missing)}): fetch them with "
            f"`make jars`, or beside pom.xml with `mvn dependency:copy-dependencies -DoutputDirectory={jars}`"
        )
